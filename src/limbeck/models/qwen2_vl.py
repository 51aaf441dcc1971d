"""Qwen2-VL: a vision transformer for pictures of any size, 2x2 patches merged into one token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from limbeck.models.family import Family
from limbeck.models.source import resized_tokens
from limbeck.models.tokenizer import IMAGE, VIDEO, VISION_END, VISION_START
from limbeck.recipe.sections import Build
from limbeck.records import Grid

if TYPE_CHECKING:
    from torch import Tensor

MERGE = 2
TEMPORAL_PATCH = 2


class Qwen2VL(Family):
    """Checkpoints of `model_type: qwen2_vl`."""

    model_type = "qwen2_vl"
    causal = True
    prefix: ClassVar[str] = "Qwen2VL"
    """Of the names of its classes in transformers."""
    video_processor: ClassVar[str] = "Qwen2VLVideoProcessor"
    paths: ClassVar = {
        "vision_tower": ("model.visual",),
        "projector": ("model.visual.merger",),
        "language_model": ("model.language_model",),
    }

    def configuration(self, build: Build, tokenizer: Any) -> Any:
        """Embeddings and head are tied, as in the small published models."""
        import transformers

        return getattr(transformers, f"{self.prefix}Config")(
            text_config=self.text_configuration(build, tokenizer),
            vision_config=self.vision_configuration(build),
            tie_word_embeddings=True,
            **self.token_ids(tokenizer),
        )

    def grids(
        self, configuration: Any, inputs: Mapping[str, Tensor], visual_tokens: int
    ) -> list[Grid]:
        """What the processor says, after patches were merged."""
        merge = configuration.vision_config.spatial_merge_size
        grids = inputs["image_grid_thw"].tolist() if "image_grid_thw" in inputs else []
        return [(t, h // merge, w // merge) for t, h, w in grids]

    def vision_configuration(self, build: Build) -> dict[str, Any]:
        """`embed_dim` is the tower's own width; `hidden_size` is the language model's."""
        return {
            "depth": build.vision_layers,
            "embed_dim": build.vision_hidden_size,
            "hidden_size": build.hidden_size,
            "num_heads": build.vision_heads,
            "patch_size": build.patch_size,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
        }

    def text_configuration(self, build: Build, tokenizer: Any) -> dict[str, Any]:
        """Sizes of the language model; positions are split over (time, height, width)."""
        return {
            "vocab_size": build.vocabulary_rows or len(tokenizer),
            "hidden_size": build.hidden_size,
            "intermediate_size": build.intermediate_size,
            "num_hidden_layers": build.layers,
            "num_attention_heads": build.heads,
            "num_key_value_heads": build.key_value_heads,
            "max_position_embeddings": build.context_tokens,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10_000.0,
                **self.position_axes(build.hidden_size // build.heads // 2),
            },
            "tie_word_embeddings": True,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }

    def position_axes(self, half: int) -> dict[str, Any]:
        """How half of a head's width is shared out over time, height and width."""
        time = max(1, half // 4)
        height = (half - time) // 2
        return {"mrope_section": [time, height, half - time - height]}

    def token_ids(self, tokenizer: Any) -> dict[str, int]:
        """Where the vocabulary has the markers of pictures."""
        names = {
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "vision_start_token_id": VISION_START,
            "vision_end_token_id": VISION_END,
        }
        return {key: tokenizer.convert_tokens_to_ids(token) for key, token in names.items()}

    def picture_tokens(
        self, build: Build, width: int, height: int, pixels: tuple[int | None, int | None]
    ) -> int | None:
        """As many as the resized picture has squares of 2 x 2 patches."""
        side = build.patch_size * MERGE
        most = pixels[1] or max(self.most_pixels(build), pixels[0] or 0)
        return resized_tokens(width, height, side, pixels[0] or min(side**2, most), most)

    def most_pixels(self, build: Build) -> int:
        """Of a picture, unless the recipe says so: half of the context."""
        return (build.patch_size * MERGE) ** 2 * max(1, build.context_tokens // 2)

    def processor(self, build: Build, tokenizer: Any) -> Any:
        """Pictures keep their size, rounded to whole tokens, up to half of the context."""
        import transformers

        options: dict[str, Any] = {
            "patch_size": build.patch_size,
            "merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
            "image_mean": [build.image_mean] * 3,
            "image_std": [build.image_std] * 3,
            "size": {
                "shortest_edge": (build.patch_size * MERGE) ** 2,
                "longest_edge": self.most_pixels(build),
            },
        }
        video = getattr(transformers, self.video_processor)
        return getattr(transformers, f"{self.prefix}Processor")(
            transformers.Qwen2VLImageProcessor(**options),
            tokenizer,
            video(**options),
            chat_template=tokenizer.chat_template,
        )


FAMILY = Qwen2VL()
