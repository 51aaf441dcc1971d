"""LLaVA: a CLIP vision tower for square pictures, a two-layer projector, a Llama."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from limbeck.models.family import Family
from limbeck.models.tokenizer import END_OF_TEXT, END_OF_TURN, UNKNOWN, chat_template
from limbeck.recipe.sections import Build
from limbeck.records import Grid

if TYPE_CHECKING:
    from torch import Tensor

IMAGE_TOKEN = "<image>"


class Llava(Family):
    """Checkpoints of `model_type: llava`."""

    model_type = "llava"
    paths: ClassVar = {
        "vision_tower": ("model.vision_tower",),
        "projector": ("model.multi_modal_projector",),
        "language_model": ("model.language_model",),
    }
    causal = True
    special_tokens = (END_OF_TEXT, "<|im_start|>", END_OF_TURN, IMAGE_TOKEN, UNKNOWN)
    template = chat_template(IMAGE_TOKEN + "\n")
    patches_per_side: ClassVar[int] = 8

    def side(self, build: Build) -> int:
        """Pixels per side of the square picture that the vision tower sees."""
        return build.patch_size * self.patches_per_side

    def picture_tokens(
        self, build: Build, width: int, height: int, pixels: tuple[int | None, int | None]
    ) -> int | None:
        """Every picture becomes one square."""
        return self.patches_per_side**2

    def configuration(self, build: Build, tokenizer: Any) -> Any:
        """The class token is dropped, and features are those of the last layer but one."""
        from transformers import LlavaConfig

        return LlavaConfig(
            vision_config=self.vision_configuration(build, "clip_vision_model"),
            text_config=self.text_configuration(build, tokenizer, "llama"),
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            image_seq_length=self.patches_per_side**2,
            tie_word_embeddings=True,
        )

    def grids(
        self, configuration: Any, inputs: Mapping[str, Tensor], visual_tokens: int
    ) -> list[Grid] | None:
        """Every picture is one square of as many patches."""
        side = configuration.vision_config.image_size // configuration.vision_config.patch_size
        pictures, rest = divmod(visual_tokens, side**2)
        return None if rest else [(1, side, side)] * pictures

    def vision_configuration(self, build: Build, model_type: str) -> dict[str, Any]:
        """Sizes of the vision tower."""
        return {
            "model_type": model_type,
            "hidden_size": build.vision_hidden_size,
            "intermediate_size": build.vision_hidden_size * 4,
            "num_hidden_layers": build.vision_layers,
            "num_attention_heads": build.vision_heads,
            "patch_size": build.patch_size,
            "image_size": self.side(build),
        }

    def text_configuration(self, build: Build, tokenizer: Any, model_type: str) -> dict[str, Any]:
        """Sizes of the language model."""
        return {
            "model_type": model_type,
            "vocab_size": build.vocabulary_rows or len(tokenizer),
            "hidden_size": build.hidden_size,
            "intermediate_size": build.intermediate_size,
            "num_hidden_layers": build.layers,
            "num_attention_heads": build.heads,
            "num_key_value_heads": build.key_value_heads,
            "max_position_embeddings": build.context_tokens,
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }

    def processor(self, build: Build, tokenizer: Any) -> Any:
        """The shorter side is resized and the rest cropped, as LLaVA does."""
        from transformers import CLIPImageProcessor, LlavaProcessor

        return LlavaProcessor(
            CLIPImageProcessor(**self.image_options(build)),
            tokenizer,
            patch_size=build.patch_size,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            image_token=IMAGE_TOKEN,
            chat_template=tokenizer.chat_template,
        )

    def image_options(self, build: Build) -> dict[str, Any]:
        """Size and normalisation of pictures."""
        side = self.side(build)
        return {
            "size": {"shortest_edge": side},
            "crop_size": {"height": side, "width": side},
            "image_mean": [build.image_mean] * 3,
            "image_std": [build.image_std] * 3,
        }


FAMILY = Llava()
