"""A tiny recipe whose models are there: no test here trains for longer than two steps."""

from __future__ import annotations

from pathlib import Path

from limbeck.pipeline import run
from limbeck.recipe import Recipe, recipe_from


def finished(work: Path, model: Path) -> Recipe:
    recipe = recipe_from(
        {
            "name": "tiny",
            "work": str(work),
            "device": "cpu",
            "seeds": [3, 4],
            "data": {"source": "screens", "train": 8, "validation": 2, "test": 6},
            "teacher": {"backend": "transformers", "model": str(model)},
            "student": {"model": str(model)},
            "label": {"limit": 4, "max_new_tokens": 8, "signal": "none", "answers": "gold"},
            "losses": [{"kind": "cross_entropy"}],
            "training": {"steps": 2, "samples_per_step": 2, "precision": "fp32"},
            "evaluate": {"max_new_tokens": 6},
        }
    )
    run(recipe, until="train")
    return recipe
