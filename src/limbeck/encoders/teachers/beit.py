"""BEiT: a vision transformer that learnt to fill in visual tokens; one tower, no text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from limbeck.encoders.teachers import EncoderTeacher, ImageFeatures, TinyTeacher, from_class_token

if TYPE_CHECKING:
    from torch import Tensor


class Beit(EncoderTeacher):
    """`BeitModel`; the embedding is its pooled output, the normalised mean of the patches."""

    reads_text: ClassVar[bool] = False
    architecture: ClassVar[str] = "BeitModel"

    kind: Literal["beit"] = "beit"

    def new_model(self, sizes: TinyTeacher, tokenizer: Any) -> Any:
        """A small BeitModel."""
        from transformers import BeitConfig, BeitModel

        config = BeitConfig(
            **sizes.transformer,
            **sizes.feed_forward,
            **sizes.pictures,
            use_absolute_position_embeddings=True,
            attn_implementation="eager",
        )
        return BeitModel(config)

    def look(self, model: Any, pixels: Tensor) -> ImageFeatures:
        """The mean of the patches, and the patches."""
        made = model(pixels, output_attentions=True)
        patches_BTD = made.last_hidden_state[:, 1:]
        weights = from_class_token(made.attentions, patches_BTD.shape[1])
        return ImageFeatures(made.pooler_output, patches_BTD, weights)
