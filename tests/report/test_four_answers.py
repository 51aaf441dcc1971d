"""The four answers under the verdict follow from the numbers, and change when they do."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_stages import write_stages

from limbeck.report.results import ReportInputs, assemble


@pytest.fixture
def inputs(tmp_path) -> ReportInputs:
    return write_stages(tmp_path / "stages", samples=240)


def answers(inputs: ReportInputs) -> dict[str, str]:
    return {row["question"]: row["answer"] for row in assemble(inputs)["answers"]}


def change(inputs: ReportInputs, other: str, mean: float, half: float = 0.01) -> None:
    """Set the headline's difference student − other, with seeds that agree closely."""
    path = inputs.evaluation / "scores.json"
    scores = json.loads(path.read_text())
    for one in scores["differences"]:
        if one["metric"] == "exact_match" and one["b"] == other:
            seeds = [
                {**s, "value": mean + d} for s, d in zip(one["per_seed"], (0, 1e-4), strict=True)
            ]
            one |= {"mean": mean, "low": mean - half, "high": mean + half, "per_seed": seeds}
    path.write_text(json.dumps(scores))


def test_which_model_to_deploy_follows_the_outcomes(inputs):
    def choice() -> str:
        return answers(inputs)["Which model to deploy?"]

    change(inputs, "control", 0.1)
    change(inputs, "teacher", 0.0)
    assert choice() == "The student: its exact match cannot be told from the teacher's."
    change(inputs, "teacher", -0.2)
    assert choice().startswith("The student, where 20.")
    assert "of the teacher's exact match may be given up" in choice()
    change(inputs, "control", 0.0)
    assert "the control is as good a choice and simpler to make" in choice()
    change(inputs, "control", -0.3)
    assert choice().startswith("The control (plain cross-entropy training")
    change(inputs, "baseline", 0.0)
    assert choice().startswith("Not this student: training did not make it better")


def test_a_student_that_saves_nothing_is_not_recommended_for_what_it_saves(inputs):
    teacher = next(m for m in inputs.models if m.arm == "teacher").benchmark / "results.json"
    for model in inputs.models:
        (model.benchmark / "results.json").write_text(teacher.read_text())
    change(inputs, "teacher", -0.2)
    choice = answers(inputs)["Which model to deploy?"]
    assert choice == "The teacher: the student is worse and nothing measured is cheaper."


def test_a_model_below_its_floor_is_not_recommended(inputs, monkeypatch):
    floor = {"arm": "teacher", "floor": "most_frequent", "outcome": "tie", "why": "w"}
    found = [{**floor, "sentence": "it does not beat it"}]
    monkeypatch.setattr("limbeck.report.results.floors", lambda *_: found)
    assert answers(inputs)["Which model to deploy?"].startswith("None of these yet")


def test_what_it_costs_names_the_measured_numbers_and_the_machine(inputs):
    cost = answers(inputs)["What does it cost?"]
    for text in ("376 K parameters (4.2× less", "1.47 MiB on disk", "41.5 ms an answer (2.6× less"):
        assert text in cost
    assert "402 MiB of process RSS" in cost
    assert cost.endswith("on cpu (a processor).")


def test_how_sure_gives_n_interval_and_seeds(inputs):
    sure = answers(inputs)["How sure is that?"]
    student = next(a for a in assemble(inputs)["evaluation"]["arms"] if a["arm"] == "student")
    own = student["scores"]["exact_match"]
    assert f"on 240 samples: its exact match is {own['mean']:.3f} [{own['low']:.3f}" in sure
    assert "2 seeds differ by a standard deviation of" in sure


def test_one_seed_is_said_to_be_one(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=24, seeds=(0,))
    assert "One seed only" in answers(inputs)["How sure is that?"]


def test_failures_are_counted_sample_by_sample_and_the_worst_group_is_named(inputs):
    path = inputs.evaluation / "sample_scores.json"
    scores = json.loads(path.read_text())
    rows = (inputs.evaluation / "predictions-teacher.jsonl").read_text().splitlines()
    inbox = [i for i, row in enumerate(rows) if json.loads(row)["metadata"]["title"] == "inbox"]
    n = len(rows)
    scores["teacher"]["exact_match"] = [1.0] * n
    for seed in (0, 1):
        own = [0.0 if i in inbox[:10] else 1.0 for i in range(n)]
        own[inbox[0]] = -1.0 if seed else -2.0
        scores[f"student-seed{seed}"]["exact_match"] = own
    path.write_text(json.dumps(scores))
    results = assemble(inputs)
    found = results["failures"]
    assert (found["behind"], found["even"], found["ahead"]) == (10, n - 10, 0)
    worst = found["groups"][0]
    assert (worst["by"], worst["group"], worst["n"]) == ("title", "inbox", len(inbox))
    assert worst["gap"] == pytest.approx(-(9 + 2.5) / len(inbox))
    assert worst["low"] < worst["gap"] < worst["high"] < 0
    assert all(row["gap"] == row["low"] == row["high"] == 0 for row in found["groups"][1:])
    assert found["samples"][0]["id"] == json.loads(rows[inbox[0]])["id"]
    assert found["samples"][0]["gap"] == pytest.approx(-2.5)
    assert len(found["samples"]) == 10
    answer = next(r["answer"] for r in results["answers"] if r["question"] == "Where does it fail?")
    assert answer.startswith(f"It is behind the teacher on {10 / n:.1%}".replace("%", " %"))
    assert "title inbox" in answer


def test_a_metric_where_less_is_better_counts_more_as_behind(inputs):
    path = inputs.evaluation / "scores.json"
    scores = json.loads(path.read_text())
    scores["metrics"][0]["higher_is_better"] = False
    path.write_text(json.dumps(scores))
    turned = assemble(inputs)["failures"]
    scores["metrics"][0]["higher_is_better"] = True
    path.write_text(json.dumps(scores))
    found = assemble(inputs)["failures"]
    assert (turned["ahead"], turned["behind"]) == (found["behind"], found["ahead"])
    assert found["behind"] > found["ahead"]


def test_without_a_teacher_the_failures_are_said_to_be_unknown(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=12, arms=("student", "baseline"))
    assert answers(inputs)["Where does it fail?"].startswith("Not known")
    assert "the teacher was not measured" in answers(inputs)["Which model to deploy?"]
