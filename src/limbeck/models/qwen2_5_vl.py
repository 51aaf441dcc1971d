"""Qwen2.5-VL: as Qwen2-VL, with windowed attention in most layers of the vision tower."""

from __future__ import annotations

from typing import Any

from limbeck.models.qwen2_vl import MERGE, TEMPORAL_PATCH, Qwen2VL
from limbeck.recipe.sections import Build

WINDOW_TOKENS = 4


class Qwen2_5VL(Qwen2VL):
    """Checkpoints of `model_type: qwen2_5_vl`."""

    model_type = "qwen2_5_vl"
    prefix = "Qwen2_5_VL"

    def vision_configuration(self, build: Build) -> dict[str, Any]:
        """The last layer sees the whole picture, the others windows of 4x4 tokens."""
        return {
            "depth": build.vision_layers,
            "hidden_size": build.vision_hidden_size,
            "out_hidden_size": build.hidden_size,
            "intermediate_size": build.vision_hidden_size * 4,
            "num_heads": build.vision_heads,
            "patch_size": build.patch_size,
            "window_size": build.patch_size * MERGE * WINDOW_TOKENS,
            "fullatt_block_indexes": [build.vision_layers - 1],
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL_PATCH,
        }


FAMILY = Qwen2_5VL()
