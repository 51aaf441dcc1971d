"""Fidelity and the nearest neighbour as stages of a recipe: what they read, refuse and report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limbeck import pipeline
from limbeck.errors import UsageError
from limbeck.pipeline import build_plan
from limbeck.recipe import Recipe
from test_pipeline import tiny_recipe

MODELS = ["teacher", "student", "baseline", "nearest_neighbour"]


def recipe(work: Path, **changes: Any) -> Recipe:
    fields = {"evaluate__models": MODELS, "evaluate__fidelity": True, "benchmark__models": []}
    return tiny_recipe(work, **{**fields, **changes})


def stages(made: Recipe) -> list[tuple[str, str]]:
    return [(planned.stage.kind, planned.stage.title) for planned in build_plan(made).stages]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    work = tmp_path_factory.mktemp("work")
    pipeline.run(recipe(work, seeds=[0]))
    return work, json.loads((work / "runs" / "tiny" / "results.json").read_text())


def test_arms_share_the_teachers_distributions_and_each_model_is_compared_once(
    tmp_path: Path,
) -> None:
    found = stages(recipe(tmp_path))
    assert [kind for kind, _ in found].count("teacher_signal") == 1
    compared = [title for kind, title in found if kind == "fidelity"]
    assert compared == ["student-seed0", "student-seed1", "baseline-seed0", "baseline-seed1"]
    assert ("predictions", "nearest_neighbour") in found
    plain = stages(recipe(tmp_path, evaluate__fidelity=False))
    assert not {"teacher_signal", "fidelity"} & {kind for kind, _ in plain}


def test_fidelity_needs_the_teachers_answers_and_a_teacher_that_scores(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"evaluate\.fidelity: needs the teacher's answers"):
        build_plan(recipe(tmp_path, evaluate__models=["student"]))
    served = {"backend": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    with pytest.raises(UsageError, match=r"evaluate\.fidelity: this teacher does not give its"):
        build_plan(recipe(tmp_path, teacher=served, label__signal="none",
                          losses=[{"kind": "cross_entropy"}]))  # fmt: skip


def test_a_served_teacher_leaves_the_baseline_to_say_which_pictures_are_near(
    tmp_path: Path,
) -> None:
    served = {"backend": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "m"}
    fields: dict[str, Any] = {"teacher": served, "label__signal": "none"}
    fields |= {"losses": [{"kind": "cross_entropy"}], "evaluate__fidelity": False}
    [near] = [
        planned.stage
        for planned in build_plan(recipe(tmp_path, **fields)).stages
        if planned.stage.title == "nearest_neighbour"
    ]
    assert near.reads["model"].title.startswith("student before training")
    with pytest.raises(UsageError, match=r"evaluate\.neighbour_features: the teacher does not run"):
        build_plan(recipe(tmp_path, **fields, evaluate__neighbour_features="teacher"))


def test_whose_features_are_used_changes_the_floor_and_nothing_else(tmp_path: Path) -> None:
    first, second = (
        {(p.stage.kind, p.stage.title): p.stage.fingerprint for p in build_plan(one).stages}
        for one in (recipe(tmp_path), recipe(tmp_path, evaluate__neighbour_features="baseline"))
    )
    changed = {key[1] for key in first if first[key] != second[key]}
    assert changed == {"nearest_neighbour", "scores", "tiny"}


def test_fidelity_and_the_nearest_neighbour_reach_results_and_pages(
    run: tuple[Path, dict[str, Any]],
) -> None:
    work, results = run
    scores = results["evaluation"]
    fidelity = scores["fidelity"]
    assert fidelity["samples"] == 6
    assert {row["arm"] for row in fidelity["arms"]} == {"student", "baseline"}
    for row in fidelity["arms"]:
        agreement, kl = row["scores"]["token_agreement"], row["scores"]["kl_nats"]
        assert 0 <= agreement["low"] <= agreement["mean"] <= agreement["high"] <= 1
        assert 0 < kl["low"] <= kl["mean"] <= kl["high"]
        assert (agreement["n"], kl["n"]) == (6, 6)
    pairs = {(row["arm"], row["floor"]) for row in results["floors"]}
    assert pairs == {("teacher", "nearest_neighbour"), ("student", "nearest_neighbour")}
    folder = work / "runs" / "tiny" / "report"
    for page in ((folder / name).read_text() for name in ("index.html", "README.md")):
        for words in ("Like the teacher", "tokens alike", "KL, nats a token",
                      "The answer of the nearest training picture",
                      "Where answers are as long"):  # fmt: skip
            assert words in page, words


def test_the_whole_second_run_is_cached(run: tuple[Path, dict[str, Any]]) -> None:
    work, _ = run
    again = pipeline.run(recipe(work, seeds=[0]))
    assert all(row["cached"] for row in again.stages)
