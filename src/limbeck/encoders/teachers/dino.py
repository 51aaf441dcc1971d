"""DINO and DINOv2: self-supervised vision transformers; one tower, no text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from limbeck.encoders.teachers import EncoderTeacher, ImageFeatures, TinyTeacher, from_class_token

if TYPE_CHECKING:
    from torch import Tensor


class Dino(EncoderTeacher):
    """`Dinov2Model`, or `ViTModel` for the first DINO; the embedding is the class token."""

    reads_text: ClassVar[bool] = False
    architecture: ClassVar[str] = "AutoModel"

    kind: Literal["dino"] = "dino"

    def new_model(self, sizes: TinyTeacher, tokenizer: Any) -> Any:
        """A small Dinov2Model."""
        from transformers import Dinov2Config, Dinov2Model

        config = Dinov2Config(
            **sizes.transformer,
            **sizes.pictures,
            attn_implementation="eager",
        )
        return Dinov2Model(config)

    def look(self, model: Any, pixels: Tensor) -> ImageFeatures:
        """Registers, where there are any, are left out of the patches."""
        made = model(pixels, output_attentions=True)
        side = pixels.shape[-1] // model.config.patch_size
        tokens = made.last_hidden_state
        patches = side * side
        return ImageFeatures(
            tokens[:, 0], tokens[:, -patches:], from_class_token(made.attentions, patches)
        )
