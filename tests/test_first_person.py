"""The recipe for first-person questions, in short: what is learnt is learnt from the pictures."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck import pipeline
from limbeck.cli import RECIPES
from limbeck.data.sources.egocentric import ANSWERS
from limbeck.recipe import load_recipe

CHANCE = sum(1 / len(answers) for answers in ANSWERS.values()) / len(ANSWERS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_blanked_pictures_drop_the_teacher_to_chance(tmp_path: Path) -> None:
    recipe = load_recipe(
        RECIPES / "egocentric.yaml",
        [
            f"work={tmp_path}",
            "teacher.fine_tune.training.steps=200",
            "label.limit=32",
            "evaluate.models=[teacher, teacher_blanked, most_frequent]",
            "benchmark.models=[]",
        ],
    )
    pipeline.run(recipe)
    results = json.loads((tmp_path / "runs" / "egocentric" / "results.json").read_text())
    rows = {row["floor"]: row for row in results["floors"]}
    assert rows["teacher_blanked"]["value"] > 0.5
    assert rows["teacher_blanked"]["floor_value"] < CHANCE + 0.06
    assert rows["most_frequent"]["floor_value"] < CHANCE + 0.06
    assert {row["outcome"] for row in rows.values()} == {"better"}
    by_type = results["evaluation"]["groups"]["question_type"]
    assert set(by_type) == set(ANSWERS)
    for kind in ("environment", "action understanding"):
        seen, blank = (by_type[kind][arm]["exact_match"] for arm in ("teacher", "teacher_blanked"))
        assert seen["low"] > blank["high"], kind
