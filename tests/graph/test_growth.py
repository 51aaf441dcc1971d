"""Rounds in which training data grows: ordinary stages, honest comparison, nothing done twice."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from limbeck import pipeline
from limbeck.data.labels import read_labels
from limbeck.data.samples import read_samples
from limbeck.errors import UsageError
from limbeck.graph import graph_of
from limbeck.recipe import Recipe, arms_of, recipe_from
from limbeck.recipe.loading import set_field
from test_pipeline import BUILD, Killed

TRAINING = {"steps": 12, "samples_per_step": 4, "precision": "fp32", "learning_rate": 0.01}


def growing(work: Path, **changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "growing",
        "work": str(work),
        "seeds": [0],
        "data": {"source": "screens", "train": 12, "validation": 2, "test": 4, "unlabelled": 12},
        "teacher": {
            "backend": "transformers",
            "build": dict(BUILD),
            "fine_tune": {"training": {**TRAINING, "steps": 2}},
        },
        "student": {"build": {**BUILD, "layers": 1}},
        "label": {
            "answers": "gold",
            "top_k": 4,
            "max_new_tokens": 12,
            "checks": {"must_finish": False, "max_repetition": 1},
        },
        "losses": ["cross_entropy", "divergence"],
        "training": TRAINING,
        "grow": {"rounds": 2, "samples_per_round": 6, "keep": {"share": 0.5}},
        "evaluate": {
            "models": ["student", "student_round1", "student_round2", "control"],
            "max_new_tokens": 4,
            "bootstrap": 100,
            "metrics": ["rouge_l"],
        },
        "benchmark": {"models": []},
    }
    for name, value in changes.items():
        set_field(values, name.replace("__", "."), value, where="test")
    return recipe_from(values)


Finished = tuple[Path, pipeline.RunResult]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    work = tmp_path_factory.mktemp("growing")
    return work, pipeline.run(growing(work))


def rows_of(result: pipeline.RunResult, kind: str, words: str = "") -> list[dict[str, Any]]:
    return [row for row in result.stages if row["kind"] == kind and words in row["title"]]


def summary_of(row: dict[str, Any]) -> dict[str, Any]:
    return json.loads((Path(row["folder"]) / "MANIFEST.json").read_text())["summary"]


def test_every_round_labels_its_part_and_trains_on_the_surest(finished: Finished) -> None:
    _, result = finished
    order = [row["title"] for row in result.stages if row["kind"] in ("labels", "student")]
    assert order == [
        "train",
        "student-seed0 round 1",
        "unlabelled, round 2 by student-seed0 round 1",
        "student-seed0 round 2",
        "unlabelled, round 3 by student-seed0 round 2",
        "student-seed0 round 3",
        "control-seed0",
    ]
    pool = {s.id for s in read_samples(Path(result.stages[0]["folder"]), "unlabelled")}
    parts = []
    for number, fact in zip(
        (2, 3), summary_of(rows_of(result, "student", "round 3")[0])["grown"][1:], strict=True
    ):
        labels = read_labels(Path(rows_of(result, "labels", f"round {number} by")[0]["folder"]))
        parts.append({row.sample_id for row in labels})
        fit = [row for row in labels if row.valid]
        assert fit, "the test needs a student that writes something"
        assert all(row.mean_log_probability is not None for row in fit)
        assert fact["round"] == number
        assert (fact["labelled"], fact["fit"]) == (6, len(fit))
        assert fact["kept"] == fact["trained_on"] == round(len(fit) / 2)
        known = sorted((row.mean_log_probability or 0 for row in fit), reverse=True)
        assert fact["least_log_probability_kept"] == known[fact["kept"] - 1]
    assert [len(part) for part in parts] == [6, 6]
    assert parts[0] | parts[1] == pool


def test_the_students_own_distributions_are_what_a_round_is_trained_on(finished: Finished) -> None:
    _, result = finished
    (labels,) = rows_of(result, "labels", "round 2 by")
    (first,) = rows_of(result, "student", "round 1")
    key = json.loads((Path(labels["folder"]) / "signals.json").read_text())["key"]
    assert key["made_by"] == [first["fingerprint"]]
    before, after = (
        (Path(row["folder"]) / "student" / "model.safetensors").read_bytes()
        for row in (first, rows_of(result, "student", "round 2")[0])
    )
    assert before != after


def test_the_report_says_whether_growing_helped(finished: Finished) -> None:
    work, _ = finished
    results = json.loads((work / "runs" / "growing" / "results.json").read_text())
    claims = {claim["key"]: claim for claim in results["verdict"]["claims"]}
    assert "before its data grew" in claims["student_round1"]["clause"]
    assert claims["student_round1"]["clause"] in results["verdict"]["sentence"]
    pairs = {(d["a"], d["b"]) for d in results["evaluation"]["differences"]}
    assert ("student", "student_round1") in pairs
    page = (work / "runs" / "growing" / "report" / "index.html").read_text()
    assert "Rounds of growing" in page
    assert "Rounds of growing" in (work / "runs/growing/report/README.md").read_text()
    assert "unequal" not in results["verdict"]["sentence"]


def test_a_second_run_does_no_work_and_thresholds_ask_nobody_again(finished: Finished) -> None:
    work, first = finished
    assert all(row["cached"] for row in pipeline.run(growing(work)).stages)
    plan = pipeline.build_plan(growing(work, grow__keep={"share": 0.9}))
    todo = [(p.stage.kind, p.stage.title) for p in plan.stages if not p.done]
    assert ("labels", "unlabelled, round 2 by student-seed0 round 1") not in todo
    assert ("student", "student-seed0 round 2") in todo
    assert ("student", "control-seed0") not in todo
    shorter = pipeline.build_plan(
        growing(work, grow__rounds=1, evaluate__models=["student", "student_round1"])
    )
    training = [p for p in shorter.stages if p.stage.kind in ("labels", "student", "predictions")]
    assert all(p.done for p in training), "round 2 is the same, whatever comes after it"
    assert first.stages


@pytest.mark.parametrize(
    "target", ["limbeck.signals.writer.SignalWriter.append", "limbeck.training.loop._Loop._update"]
)
def test_a_killed_round_goes_on_and_ends_in_the_same_weights(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str
) -> None:
    import importlib

    work, result = finished
    copy = tmp_path / "work"
    shutil.copytree(work, copy)
    labels, student = (
        rows_of(result, "labels", "round 2 by")[0],
        rows_of(result, "student", "round 2")[0],
    )
    lost = [student] if "Loop" in target else [labels, student]
    for row in lost:
        shutil.rmtree(copy / row["kind"] / row["fingerprint"])
    module, owner, name = target.rsplit(".", 2)
    cls = getattr(importlib.import_module(module), owner)
    original, calls = getattr(cls, name), 0

    def cut(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(cls, name, cut)
    with pytest.raises(Killed):
        pipeline.run(growing(copy), until="train")
    monkeypatch.undo()
    again = pipeline.run(growing(copy), until="train")
    assert [r["fingerprint"] for r in again.stages if not r["cached"]] == [
        row["fingerprint"] for row in lost
    ]
    for row, file in ((labels, "labels.parquet"), (student, "student/model.safetensors")):
        ours, theirs = (root / row["kind"] / row["fingerprint"] / file for root in (copy, work))
        assert ours.read_bytes() == theirs.read_bytes()


def titles(recipe: Recipe, kind: str) -> list[str]:
    return [stage.title for stage in graph_of(recipe).stages if stage.kind == kind]


def test_a_teachers_rounds_are_labelled_once_for_all_seeds_and_before_training(
    tmp_path: Path,
) -> None:
    changes = {"seeds": [0, 1], "grow__labeller": "teacher", "evaluate__models": ["student"]}
    recipe = growing(tmp_path, **changes)
    assert titles(recipe, "labels") == [
        "train",
        "unlabelled, round 2 by teacher",
        "unlabelled, round 3 by teacher",
    ]
    plan = pipeline.build_plan(recipe, until="label")
    assert "student" not in {p.stage.kind for p in plan.stages}
    by_student = growing(tmp_path, seeds=[0, 1], evaluate__models=["student"])
    assert len(titles(by_student, "labels")) == 5
    label_only = pipeline.build_plan(by_student, until="label").stages
    assert "student" not in {p.stage.kind for p in label_only}


def test_the_control_stays_with_the_first_labels_for_equal_steps(tmp_path: Path) -> None:
    def control(recipe: Recipe) -> Recipe:
        return next(arm.recipe for arm in arms_of(recipe) if arm.name == "control")

    anew = control(growing(tmp_path))
    assert (anew.grow, anew.training.steps) == (None, 12)
    onwards = control(growing(tmp_path, grow__start_from="previous"))
    assert (onwards.grow, onwards.training.steps) == (None, 36)


def test_going_on_from_the_round_before_starts_at_its_weights(tmp_path: Path) -> None:
    recipe = growing(tmp_path, grow__start_from="previous", evaluate__models=["student"])
    students = [stage for stage in graph_of(recipe).stages if stage.kind == "student"]
    assert students[1].reads["initial"] is students[0]
    assert students[2].reads["initial"] is students[1]
    anew = [s for s in graph_of(growing(tmp_path)).stages if s.kind == "student"]
    assert anew[1].reads["initial"].kind == "models"


def test_steps_of_all_rounds_are_counted_where_training_goes_on(tmp_path: Path) -> None:
    recipe = growing(
        tmp_path,
        grow__start_from="previous",
        grow__rounds=1,
        grow__keep=None,
        label__signal="none",
        losses=["cross_entropy"],
        evaluate__models=["student", "control"],
    )
    result = pipeline.run(recipe)
    results = json.loads((tmp_path / "runs" / "growing" / "results.json").read_text())
    assert results["training"]["student-seed0"]["steps"] == 24
    assert results["training"]["control-seed0"]["steps"] == 24
    assert "at equal steps (24)" in results["verdict"]["sentence"]
    assert result.stages


def test_answers_are_rated_where_no_signals_are_kept(tmp_path: Path) -> None:
    recipe = growing(tmp_path, grow__rounds=1, label__signal="live", evaluate__models=["student"])
    result = pipeline.run(recipe, until="train")
    (labels,) = rows_of(result, "labels", "round 2 by")
    fit = [row for row in read_labels(Path(labels["folder"])) if row.valid]
    assert fit
    assert all(row.mean_log_probability is not None for row in fit)
    assert not list(Path(labels["folder"]).glob("signals*"))
    assert summary_of(rows_of(result, "student", "round 2")[0])["grown"][1]["kept"]


def models(*names: str) -> Sequence[str]:
    return names


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grow__split": "test"}, "scored on them"),
        ({"training": {"epochs": 1}}, "training.steps"),
        ({"losses": [{"kind": "cross_entropy", "target": "gold"}]}, "no gold answers"),
        ({"losses": ["cross_tokenizer"]}, "tokens of two tokenizers"),
        ({"evaluate__models": models("student", "student_round3")}, "is not an arm"),
        ({"grow": None}, "student_round1' is not an arm"),
        ({"arms": {"student_round2": {}}}, "every recipe has this arm"),
        ({"grow__keep": {}}, "needs share"),
        (
            {"label": {"samples": 2, "temperature": 1.0, "choose": "reference:rouge_l"}},
            "no references to choose",
        ),
    ],
)
def test_what_cannot_be_compared_or_trained_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        graph_of(growing(tmp_path, **changes))


def test_references_of_the_pool_are_not_looked_at(tmp_path: Path) -> None:
    recipe = growing(
        tmp_path,
        **{"grow__rounds": 1, "grow__split": "train", "grow__samples_per_round": None},
        **{"label__limit": 6, "label__answers": "generated", "label__gold_share": 1.0},
        evaluate__models=["student"],
    )
    result = pipeline.run(recipe, until="train")
    pool = {s.id: s for s in read_samples(Path(result.stages[0]["folder"]), "train")[6:]}
    (labels,) = rows_of(result, "labels", "round 2 by")
    rows = read_labels(Path(labels["folder"]))
    assert {row.sample_id for row in rows} == set(pool), "the samples without a first label"
    assert any(row.text != pool[row.sample_id].references[0] for row in rows)


def test_an_arm_may_grow_otherwise(tmp_path: Path) -> None:
    arms = {"by_teacher": {"grow.labeller": "teacher"}, "half": {"grow.ratio": 0.5}}
    recipe = growing(tmp_path, arms=arms, evaluate__models=["student", "by_teacher", "half"])
    labels = titles(recipe, "labels")
    assert "unlabelled, round 2 by teacher" in labels
    assert sum("round 2 by student" in title for title in labels) == 1, "shared with `half`"


def test_inner_states_are_compared_along_later_rounds_by_a_live_teacher(tmp_path: Path) -> None:
    speaking = {"kind": "verbalised", "student_layers": [0], "teacher_layers": [0, 1]}
    speaking["verbalisers"] = {"steps": 2, "samples_per_step": 4}
    recipe = growing(
        tmp_path,
        losses=["cross_entropy", {"kind": "hidden_states", "weight": 0.5}, speaking],
        label__signal="live",
        grow__rounds=1,
        grow__keep=None,
        evaluate__models=["student"],
    )
    result = pipeline.run(recipe, until="train")
    (last,) = rows_of(result, "student", "round 2")
    summary = summary_of(last)
    added = summary["grown"][1]["trained_on"]
    assert added, "the test needs a student that writes something"
    assert summary["examples"] == 12 + added
    lines = (Path(last["folder"]) / "metrics.jsonl").read_text().splitlines()
    assert "hidden_states" in lines[-1]
    assert "verbalised" in lines[-1]


def test_cached_states_of_rounds_and_shared_prefixes_are_refused_with_the_mend(
    tmp_path: Path,
) -> None:
    losses = ["cross_entropy", {"kind": "hidden_states"}]
    with pytest.raises(UsageError, match=r"label\.signal to live"):
        graph_of(growing(tmp_path, losses=losses, evaluate__models=["student"]))
    changes = {"grow": None, "training__share_prefix": True, "evaluate__models": ["student"]}
    with pytest.raises(UsageError, match="share_prefix to false"):
        graph_of(growing(tmp_path, losses=losses, **changes))
