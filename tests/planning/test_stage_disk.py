"""The disk of every stage: what stages take is what the plan said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from limbeck import pipeline
from test_pipeline import BUILD, tiny_recipe

ONE = {"seeds": [0], "evaluate__models": ["student"], "benchmark__models": None}
LARGER = {**BUILD, "hidden_size": 128, "layers": 3, "vocabulary_rows": 2048}


def disks(recipe: Any) -> dict[tuple[str, str], dict[str, Any]]:
    rows = pipeline.build_plan(recipe).describe()["stages"]
    return {(row["kind"], row["title"]): row["disk"] for row in rows}


def test_models_and_checkpoints_take_what_the_plan_said(tmp_path: Path) -> None:
    losses = [
        {"kind": "cross_entropy"},
        {"kind": "verbalised", "student_layers": 1, "teacher_layers": 1,
         "verbalisers": {"steps": 2, "samples_per_step": 2}},
    ]  # fmt: skip
    changes = {**ONE, "student__build": LARGER, "teacher__build": LARGER, "losses": losses}
    recipe = tiny_recipe(tmp_path, **changes)
    before = disks(recipe)
    pipeline.run(recipe, until="train")
    after = disks(recipe)
    for key, taken in after.items():
        if key[0] in ("models", "teacher", "student", "verbalisers"):
            assert taken["measured"]
            assert not before[key]["measured"]
            # Configurations, a tokenizer and the state of random generators are not counted.
            if before[key]["at_most"]:
                assert 0.95 * taken["bytes"] <= before[key]["bytes"] <= 1.5 * taken["bytes"], key
            else:
                assert before[key]["bytes"] == pytest.approx(taken["bytes"], rel=0.05), key


@pytest.mark.parametrize(
    "loss",
    [
        {"kind": "hidden_states", "layers": "last"},
        {"kind": "hidden_states", "layers": "every"},
        {"kind": "vision_features", "at": "projector"},
        {"kind": "vision_features", "at": "tower"},
        {"kind": "relational", "between": "samples"},
        {"kind": "attention_transfer"},
    ],
)
def test_inner_states_take_no_more_than_the_plan_said(tmp_path: Path, loss: dict[str, Any]) -> None:
    changes = {**ONE, "losses": [{"kind": "cross_entropy"}, loss]}
    if loss["kind"] == "attention_transfer":
        changes |= {"student__attention": "eager", "teacher__attention": "eager"}
    recipe = tiny_recipe(tmp_path, **changes, teacher__build={**BUILD, "hidden_size": 128})
    key = ("features", loss["kind"])
    assert "counts the samples" in disks(recipe)[key]["unknown"]
    pipeline.run(recipe, until="data")
    before = disks(recipe)[key]
    assert before["at_most"]
    pipeline.run(recipe, until="train")
    taken = disks(recipe)[key]["bytes"]
    headers = 9000  # of the index and of the file's own list of tensors
    assert taken - headers <= before["bytes"] <= 2.5 * taken


def test_the_disk_in_all_is_compared_with_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = tiny_recipe(tmp_path, **ONE)
    needs = pipeline.build_plan(recipe).needs["disk"]
    assert needs["fits"]
    assert needs["bytes"] > 0
    monkeypatch.setattr("limbeck.planning.disk.Disk.free", lambda self: 1000)
    assert not pipeline.build_plan(recipe).needs["disk"]["fits"]


def test_a_cache_of_vision_features_is_there_on_the_way_only(tmp_path: Path) -> None:
    frozen = {"student__freeze": ["vision_tower", "projector"]}
    plain = tiny_recipe(tmp_path, **ONE, **frozen)
    cached = tiny_recipe(tmp_path, **ONE, **frozen, training__cache_vision_features="int8")
    pipeline.run(plain, until="data")
    key = ("student", "student-seed0")
    without, with_it = disks(plain)[key], disks(cached)[key]
    assert with_it["bytes"] == without["bytes"]
    assert with_it["temporary_bytes"] > without["temporary_bytes"]
