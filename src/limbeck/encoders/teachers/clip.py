"""CLIP: a vision and a text tower that share a space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from limbeck.encoders.teachers import EncoderTeacher, ImageFeatures, TinyTeacher, from_class_token

if TYPE_CHECKING:
    from torch import Tensor


class Clip(EncoderTeacher):
    """`CLIPModel`; patches go through the same norm and projection as the class token."""

    reads_text: ClassVar[bool] = True

    kind: Literal["clip"] = "clip"

    def new_model(self, sizes: TinyTeacher, tokenizer: Any) -> Any:
        """A small CLIPModel for the tokenizer's words."""
        from transformers import CLIPConfig, CLIPModel

        layers = {
            "hidden_size": sizes.width,
            "num_hidden_layers": sizes.layers,
            "num_attention_heads": sizes.heads,
            "intermediate_size": 4 * sizes.width,
        }
        text = {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": 64,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
        }
        image = {"image_size": sizes.image_size, "patch_size": sizes.patch_size}
        config = CLIPConfig(
            text_config={**layers, **text},
            vision_config={**layers, **image},
            projection_dim=sizes.width,
            attn_implementation="eager",
        )
        return CLIPModel(config)

    def load_model(self, folder: Path) -> Any:
        """Both towers."""
        from transformers import CLIPModel

        return CLIPModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, attn_implementation="eager"
        )

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
