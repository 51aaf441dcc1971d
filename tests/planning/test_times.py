"""Times come from stages that ran, or are unknown in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from limbeck import pipeline
from limbeck.errors import UsageError
from limbeck.planning.micro_run import shortened
from test_pipeline import tiny_recipe

ONE = {"seeds": [0], "evaluate__models": ["student"], "benchmark__models": None}
PLAIN = {**ONE, "losses": [{"kind": "cross_entropy"}], "label__signal": "none"}


def times_of(plan: pipeline.Plan) -> dict[str, dict[str, Any]]:
    return {row["kind"]: row["time"] for row in plan.describe()["stages"]}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    work = tmp_path_factory.mktemp("work")
    pipeline.run(tiny_recipe(work, **PLAIN), until="evaluate")
    return work


def test_nothing_that_ran_means_unknown(tmp_path: Path) -> None:
    plan = pipeline.build_plan(tiny_recipe(tmp_path, **PLAIN))
    found = times_of(plan)
    assert all(one["seconds"] is None and one["unknown"] for one in found.values())
    assert "no stage like it" in found["student"]["unknown"]
    assert plan.needs["time"]["seconds"] is None


def test_a_finished_stage_says_what_it_took(finished: Path) -> None:
    found = times_of(pipeline.build_plan(tiny_recipe(finished, **PLAIN)))
    assert found["student"]["measured"]
    assert found["student"]["seconds"] > 0


def test_longer_stages_are_scaled_from_those_that_ran(finished: Path) -> None:
    before = times_of(pipeline.build_plan(tiny_recipe(finished, **PLAIN)))["student"]["seconds"]
    longer = tiny_recipe(finished, **PLAIN, training__steps=30, training__learning_rate=1e-3)
    plan = pipeline.build_plan(longer)
    found = times_of(plan)["student"]
    assert found["seconds"] == pytest.approx(10 * before), "ten times the steps"
    assert found["source"].startswith("student/")
    assert not found["measured"]
    assert plan.needs["time"]["seconds"] >= found["seconds"]


def test_stages_that_do_other_work_are_not_compared(finished: Path) -> None:
    other = {**PLAIN, "training__precision": "bf16"}
    found = times_of(pipeline.build_plan(tiny_recipe(finished, **other)))
    assert found["student"]["seconds"] is None
    wider = {**PLAIN, "student__build__hidden_size": 64}
    found = times_of(pipeline.build_plan(tiny_recipe(finished, **wider)))
    assert found["student"]["seconds"] is None
    assert found["labels"]["measured"], "the teacher is the same"


def test_two_lengths_tell_what_starting_takes(tmp_path: Path) -> None:
    from limbeck.planning.times import Finished, Times, planned_key
    from limbeck.store import Store

    recipe = tiny_recipe(tmp_path, **PLAIN, training__steps=100)
    plan = pipeline.build_plan(recipe)
    stage = next(row.stage for row in plan.stages if row.stage.kind == "student")
    key = planned_key(stage)
    ran = [Finished(key, 10, 7.0, "a"), Finished(key, 30, 9.0, "b")]
    from limbeck.planning.workload import workloads

    (work,) = [w for w in workloads(recipe, lambda *_: None) if w.kind == "student"]
    found = Times(Store(tmp_path), ran).of(stage, [work])
    assert found.seconds == pytest.approx(6 + 0.1 * 400), "six to start, a tenth for each sample"
    assert found.source == "a and b"


def test_a_micro_run_needs_the_data_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="limbeck data RECIPE"):
        pipeline.build_plan(tiny_recipe(tmp_path, **PLAIN), measure=True)


def test_a_micro_run_is_the_recipe_cut_short(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, seeds=[3, 4], training__steps=500)
    cut = shortened(recipe, tmp_path / "other", 1)
    assert cut.work == str(tmp_path / "other")
    assert cut.training.steps == 2
    assert cut.seeds == (3,)
    assert cut.teacher.fine_tune.training.steps == 2  # pyright: ignore
    assert cut.student == recipe.student


@pytest.mark.slow
def test_a_micro_run_times_every_model_and_touches_nothing(tmp_path: Path) -> None:
    work = tmp_path / "work"
    recipe = tiny_recipe(work, **ONE)
    pipeline.run(recipe, until="data")
    before = sorted(path for path in tmp_path.rglob("*"))
    plan = pipeline.build_plan(recipe, measure=True)
    assert sorted(path for path in tmp_path.rglob("*")) == before
    found = times_of(plan)
    for kind in ("teacher", "labels", "student", "predictions"):
        assert found[kind]["seconds"] > 0, kind
        assert "micro-run" in found[kind]["source"]
