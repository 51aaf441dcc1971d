"""Phases: further trainings, each from the student that the one before has made."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from limbeck import pipeline
from limbeck.errors import UsageError
from limbeck.graph import graph_of
from limbeck.recipe import Recipe, arms_of
from limbeck.report.results import training_of
from test_pipeline import TRAINING, tiny_recipe

PLAIN = {"kind": "cross_entropy"}
LORA = {"rank": 2, "alpha": 4}
SPEAKING = {
    "kind": "verbalised",
    "student_layers": [0],
    "teacher_layers": [0, 1],
    "verbalisers": {"steps": 2, "samples_per_step": 4},
}


def recipe(work: Path, **changes: Any) -> Recipe:
    return tiny_recipe(
        work,
        **{
            "seeds": [0],
            "losses": [{"kind": "divergence"}, SPEAKING],
            "student__adapter": LORA,
            "phases": [{"losses": [PLAIN], "training": {**TRAINING, "steps": 2}}],
            "evaluate__models": ["student", "control"],
            **changes,
        },
    )


def rows_of(result: pipeline.RunResult) -> dict[str, Path]:
    return {row["title"]: Path(row["folder"]) for row in result.stages if row["kind"] == "student"}


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(folder / "student" / "model.safetensors")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pipeline.RunResult]:
    work = tmp_path_factory.mktemp("phases")
    return work, pipeline.run(recipe(work))


def test_a_phase_trains_every_parameter_of_the_student_before_it(
    finished: tuple[Path, pipeline.RunResult],
) -> None:
    folders = rows_of(finished[1])
    assert list(folders) == [
        *("student-seed0", "student-seed0 phase 1"),
        *("control-seed0", "control-seed0 phase 1"),
    ]
    adapted, full = (
        json.loads((folders[name] / "MANIFEST.json").read_text())["summary"]
        for name in ("student-seed0", "student-seed0 phase 1")
    )
    assert adapted["trainable_parameters"] < full["trainable_parameters"]
    before, after = (weights(folders[f"student-seed0{end}"]) for end in ("", " phase 1"))
    assert before.keys() == after.keys(), "verbalisers and adapters are left behind"
    moved = {name for name in before if not before[name].equal(after[name])}
    assert any("visual" in name for name in moved)
    assert any("layers" in name for name in moved)
    largest = max(float((before[n] - after[n]).abs().max()) for n in moved)
    assert largest < 0.1, "it began with the student's weights, not with new ones"


def test_the_control_has_the_same_phases_on_plain_cross_entropy(tmp_path: Path) -> None:
    phases = [
        {"losses": [{"kind": "divergence"}, {**PLAIN, "target": "gold", "weight": 0.2}]},
        {"losses": [{"kind": "divergence", "direction": "reverse"}]},
    ]
    found = {arm.name: arm for arm in arms_of(recipe(tmp_path, phases=phases))}
    kinds = [
        [(loss.kind, loss.target, loss.weight) for loss in one.recipe.losses]
        for one in found["control"].trainings()
    ]
    assert kinds == [
        [("cross_entropy", "teacher", 1.0)],
        [("cross_entropy", "gold", 1.0)],
        [("cross_entropy", "teacher", 1.0)],
    ]


def test_the_report_counts_and_draws_all_phases(
    finished: tuple[Path, pipeline.RunResult],
) -> None:
    _, result = finished
    results = json.loads((result.report.parent / "results.json").read_text())
    for arm in ("student-seed0", "control-seed0"):
        training = results["training"][arm]
        assert training["steps"] == TRAINING["steps"] + 2
        assert training["phases"] == [TRAINING["steps"]]
        assert training["curve"]["step"][-1] == TRAINING["steps"] + 2
        assert training["curve"]["seconds"] == sorted(training["curve"]["seconds"])
    assert results["training"]["student-seed0"]["matches"], "of the phase in which layers spoke"
    assert "unequal" not in results["verdict"]["sentence"]
    assert "a further phase begins at step 3" in result.report.read_text()


def test_arms_with_and_without_a_phase_share_the_training_before_it(tmp_path: Path) -> None:
    arms = {"without": {"phases": []}, "longer": {"phases.0.training.steps": 5}}
    models = ["student", "without", "longer"]
    graph = graph_of(recipe(tmp_path, arms=arms, evaluate__models=models))
    titles = [stage.title for stage in graph.stages if stage.kind == "student"]
    assert titles == ["student-seed0", "student-seed0 phase 1", "longer-seed0 phase 1"]


def test_seeds_and_the_recipes_own_training_reach_a_phase(tmp_path: Path) -> None:
    graph = graph_of(recipe(tmp_path, seeds=[0, 1], phases=[{"losses": [PLAIN]}]))
    phases = [s for s in graph.stages if s.title.endswith("phase 1")]
    assert sorted(s.identity["seed"] for s in phases if "student" in s.title) == [0, 1]
    assert {s.identity["training"]["steps"] for s in phases} == {TRAINING["steps"]}


@pytest.mark.parametrize(
    ("arm", "where"),
    [("student", r"phases\.0\.losses\.0"), ("other", r"arms\.other\.phases\.0\.losses\.0")],
)
def test_a_phase_that_cannot_be_is_refused_by_its_place(
    tmp_path: Path, arm: str, where: str
) -> None:
    bad = [{"losses": [{"kind": "divergence", "temperature": 3.0}]}]
    if arm == "student":
        made = recipe(tmp_path, phases=bad)
    else:
        made = recipe(
            tmp_path, arms={"other": {"phases": bad}}, evaluate__models=["student", "other"]
        )
    with pytest.raises(UsageError, match=where):
        graph_of(made)


def test_a_phase_may_compare_inner_states(tmp_path: Path) -> None:
    states = {"kind": "hidden_states", "layers": "last"}
    made = recipe(
        tmp_path,
        losses=[PLAIN],
        phases=[{"losses": [{"kind": "divergence"}, states]}],
        evaluate__models=["student"],
    )
    folder = rows_of(pipeline.run(made, until="train"))["student-seed0 phase 1"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["losses"]["hidden_states"] > 0


def test_phases_come_after_the_rounds_in_which_data_grows(tmp_path: Path) -> None:
    grow = {"rounds": 1, "split": "validation", "keep": None}
    made = recipe(tmp_path, losses=[PLAIN], grow=grow, evaluate__models=["student"])
    titles = [stage.title for stage in graph_of(made).stages if stage.kind == "student"]
    assert titles == [
        "student-seed0 round 1",
        "student-seed0 round 2",
        "student-seed0 round 2 phase 1",
    ]


def test_curves_of_one_training_begin_at_its_first_step(tmp_path: Path) -> None:
    lines = [{"step": n, "seconds": n / 2, "loss": 1.0, "losses": {}} for n in (1, 2)]
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in lines))
        (tmp_path / name / "MANIFEST.json").write_text(json.dumps({"seconds": 3, "summary": {}}))
    one, both = training_of([tmp_path / "a"]), training_of([tmp_path / "a", tmp_path / "b"])
    assert (one["phases"], one["steps"], one["seconds"]) == ([], 2, 3)
    assert (both["phases"], both["curve"]["step"]) == ([2], [1, 2, 3, 4])
    assert both["seconds_per_step"] == 0.5
