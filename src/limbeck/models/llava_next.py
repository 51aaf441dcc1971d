"""LLaVA-NeXT: as LLaVA, with the picture cut into tiles beside its small version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from limbeck.models.llava import IMAGE_TOKEN, Llava
from limbeck.recipe.sections import Build

if TYPE_CHECKING:
    from torch import Tensor


class LlavaNext(Llava):
    """Checkpoints of `model_type: llava_next`."""

    model_type = "llava_next"
    paths: ClassVar = {
        **Llava.paths,
        "projector": ("model.multi_modal_projector", "model.image_newline"),
    }
    patches_per_side = 4

    def resolutions(self, build: Build) -> list[list[int]]:
        """Height and width of the tilings that a picture may get."""
        side = self.side(build)
        return [[side, 2 * side], [2 * side, side], [2 * side, 2 * side]]

    def picture_tokens(
        self, build: Build, width: int, height: int, pixels: tuple[int | None, int | None]
    ) -> int | None:
        """It depends on the tiling."""
        return None

    def grids(self, configuration: Any, inputs: Mapping[str, Tensor], visual_tokens: int) -> None:
        """Tiles without their padding, with a token at the end of each row, lie on no grid."""

    def configuration(self, build: Build, tokenizer: Any) -> Any:
        """Model and processor know the same tilings."""
        from transformers import LlavaNextConfig

        return LlavaNextConfig(
            vision_config=self.vision_configuration(build, "clip_vision_model"),
            text_config=self.text_configuration(build, tokenizer, "llama"),
            image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
            image_seq_length=self.patches_per_side**2,
            image_grid_pinpoints=self.resolutions(build),
            tie_word_embeddings=True,
        )

    def processor(self, build: Build, tokenizer: Any) -> Any:
        """One more token a tile row says where the row ends."""
        from transformers import LlavaNextImageProcessor, LlavaNextProcessor

        pinpoints = self.resolutions(build)
        return LlavaNextProcessor(
            LlavaNextImageProcessor(image_grid_pinpoints=pinpoints, **self.image_options(build)),
            tokenizer,
            patch_size=build.patch_size,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            image_token=IMAGE_TOKEN,
            chat_template=tokenizer.chat_template,
        )


FAMILY = LlavaNext()
