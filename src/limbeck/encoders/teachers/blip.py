"""BLIP with its retrieval heads; the study uses the contrastive space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from limbeck.encoders.teachers import EncoderTeacher, ImageFeatures, TinyTeacher, from_class_token

if TYPE_CHECKING:
    from torch import Tensor


class Blip(EncoderTeacher):
    """`BlipForImageTextRetrieval`; the space is that of its contrastive projections."""

    reads_text: ClassVar[bool] = True
    architecture: ClassVar[str] = "BlipForImageTextRetrieval"

    kind: Literal["blip"] = "blip"

    def new_model(self, sizes: TinyTeacher, tokenizer: Any) -> Any:
        """A small BlipForImageTextRetrieval for the tokenizer's words."""
        from transformers import BlipConfig, BlipForImageTextRetrieval

        layers = {**sizes.transformer, **sizes.feed_forward}
        text = {**sizes.words(tokenizer), "encoder_hidden_size": sizes.width}
        config = BlipConfig(
            text_config={**layers, **text},
            vision_config={**layers, **sizes.pictures},
            image_text_hidden_size=sizes.width,
            attn_implementation="eager",
        )
        return BlipForImageTextRetrieval(config)

    def look(self, model: Any, pixels: Tensor) -> ImageFeatures:
        """In the shared space."""
        made = model.vision_model(pixels, output_attentions=True)
        tokens_BTD = model.vision_proj(made.last_hidden_state)
        weights = from_class_token(made.attentions, tokens_BTD.shape[1] - 1)
        return ImageFeatures(tokens_BTD[:, 0], tokens_BTD[:, 1:], weights)

    def image_side(self, model: Any) -> list[Any]:
        """The vision tower and its projection."""
        return [model.vision_model, model.vision_proj]

    def read(self, model: Any, tokens: Any) -> Tensor:
        """In the shared space, from the first token."""
        made = model.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)
        return model.text_proj(made.last_hidden_state[:, 0])
