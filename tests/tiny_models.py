"""How small the models are that tests build."""

from __future__ import annotations

from limbeck.recipe.sections import Build

SIZES = {
    "family": "qwen2_vl",
    "hidden_size": 32,
    "layers": 2,
    "heads": 4,
    "key_value_heads": 2,
    "intermediate_size": 48,
    "vision_hidden_size": 32,
    "vision_layers": 1,
    "vision_heads": 2,
}


def tiny_build(**changes: object) -> Build:
    return Build.model_validate({**SIZES, "image_mean": 0.9, "image_std": 0.35, **changes})
