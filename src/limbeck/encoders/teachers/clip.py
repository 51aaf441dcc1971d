"""CLIP: a vision and a text tower that share a space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from limbeck.encoders.teachers import EncoderTeacher, ImageFeatures, TinyTeacher, from_class_token

if TYPE_CHECKING:
    from torch import Tensor


class Clip(EncoderTeacher):
    """`CLIPModel`; patches go through the same norm and projection as the class token."""

    reads_text: ClassVar[bool] = True
    architecture: ClassVar[str] = "CLIPModel"

    kind: Literal["clip"] = "clip"

    def new_model(self, sizes: TinyTeacher, tokenizer: Any) -> Any:
        """A small CLIPModel for the tokenizer's words."""
        from transformers import CLIPConfig, CLIPModel

        layers = {**sizes.transformer, **sizes.feed_forward}
        text = sizes.words(tokenizer)
        config = CLIPConfig(
            text_config={**layers, **text},
            vision_config={**layers, **sizes.pictures},
            projection_dim=sizes.width,
            attn_implementation="eager",
        )
        return CLIPModel(config)

    def look(self, model: Any, pixels: Tensor) -> ImageFeatures:
        """In the shared space."""
        made = model.vision_model(pixels, output_attentions=True)
        hidden_BTD = model.vision_model.post_layernorm(made.last_hidden_state[:, 1:])
        weights = from_class_token(made.attentions, hidden_BTD.shape[1])
        project = model.visual_projection
        return ImageFeatures(project(made.pooler_output), project(hidden_BTD), weights)

    def image_side(self, model: Any) -> list[Any]:
        """The vision tower and its projection."""
        return [model.vision_model, model.visual_projection]

    def read(self, model: Any, tokens: Any) -> Tensor:
        """In the shared space."""
        return model.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output
