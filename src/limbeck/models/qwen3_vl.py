"""Qwen3-VL: features of several vision layers are also added within the language model."""

from __future__ import annotations

from typing import Any, ClassVar

from limbeck.models.qwen2_vl import MERGE, TEMPORAL_PATCH, Qwen2VL
from limbeck.recipe.sections import Build

POSITIONS_PER_SIDE = 16


class Qwen3VL(Qwen2VL):
    """Checkpoints of `model_type: qwen3_vl`."""

    model_type = "qwen3_vl"
    prefix = "Qwen3VL"
    video_processor = "Qwen3VLVideoProcessor"
    deep_layers = 1
    paths: ClassVar = {
        **Qwen2VL.paths,
        "projector": ("model.visual.merger", "model.visual.deepstack_merger_list"),
    }

    def vision_configuration(self, build: Build) -> dict[str, Any]:
        """Learned positions are interpolated; the first layer's features go deep."""
        return {
            "depth": build.vision_layers,
            "hidden_size": build.vision_hidden_size,
            "out_hidden_size": build.hidden_size,
            "intermediate_size": build.vision_hidden_size * 4,
            "num_heads": build.vision_heads,
            "patch_size": build.patch_size,
            "num_position_embeddings": POSITIONS_PER_SIDE**2,
            "deepstack_visual_indexes": list(range(self.deep_layers)),
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
        }

    def text_configuration(self, build: Build, tokenizer: Any) -> dict[str, Any]:
        """The width of a head is a size of its own."""
        sizes = super().text_configuration(build, tokenizer)
        return {**sizes, "head_dim": build.hidden_size // build.heads}

    def position_axes(self, half: int) -> dict[str, Any]:
        """The three axes take turns over the width of a head."""
        side = max(1, half * 20 // 64)
        return {"mrope_section": [half - 2 * side, side, side], "mrope_interleaved": True}


FAMILY = Qwen3VL()
