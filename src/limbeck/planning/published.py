"""Sizes of well-known models, for plans on a machine that does not have them yet.

From the config.json of each repository on the Hugging Face hub; the weights there are bfloat16.
`tests/planning` compares the parameters that follow with the published counts.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from limbeck.planning.shape import Sizes

PIXELS = {"min_pixels": 56 * 56, "max_pixels": 28 * 28 * 16384}
"""Of the Qwen processors, where the recipe does not say."""


def _qwen(family: str, vision_intermediate: int, **sizes: Any) -> Sizes:
    return Sizes(
        family=family,
        vision_width=1280,
        vision_layers=32,
        vision_intermediate=vision_intermediate,
        vision_heads=16,
        patch_side=14,
        patches_per_token=4,
        frames=2,
        **sizes,
    )


_qwen2_vl = partial(_qwen, "qwen2_vl", 5120)
_qwen2_5_vl = partial(_qwen, "qwen2_5_vl", 3420)

_TWO = {
    "vocabulary": 151_936,
    "width": 1536,
    "layers": 28,
    "intermediate": 8960,
    "heads": 12,
    "query_width": 1536,
    "key_value_width": 256,
    "tied": True,
}
_THREE = {
    "vocabulary": 151_936,
    "width": 2048,
    "layers": 36,
    "intermediate": 11_008,
    "heads": 16,
    "query_width": 2048,
    "key_value_width": 256,
    "tied": True,
}
_SEVEN = {
    "vocabulary": 152_064,
    "width": 3584,
    "layers": 28,
    "intermediate": 18_944,
    "heads": 28,
    "query_width": 3584,
    "key_value_width": 512,
    "tied": False,
}
_SEVENTY_TWO = {
    "vocabulary": 152_064,
    "width": 8192,
    "layers": 80,
    "intermediate": 29_568,
    "heads": 64,
    "query_width": 8192,
    "key_value_width": 1024,
    "tied": False,
}

PUBLISHED: dict[str, Sizes] = {
    "Qwen/Qwen2-VL-2B-Instruct": _qwen2_vl(**_TWO),
    "Qwen/Qwen2-VL-7B-Instruct": _qwen2_vl(**_SEVEN),
    "Qwen/Qwen2-VL-72B-Instruct": _qwen2_vl(**_SEVENTY_TWO),
    "Qwen/Qwen2.5-VL-3B-Instruct": _qwen2_5_vl(**_THREE),
    "Qwen/Qwen2.5-VL-7B-Instruct": _qwen2_5_vl(**_SEVEN),
}
"""By the name on the hub."""
