"""Token agreement and divergence along the teacher's answers, live models against their caches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.data.samples import read_samples
from limbeck.evaluate.bootstrap import interval
from limbeck.evaluate.fidelity import FIDELITY, compare_with_teacher
from limbeck.evaluate.fidelity_scores import fidelity_scores
from limbeck.evaluate.predict import predict
from limbeck.evaluate.teacher_signal import keep_teacher_signal
from limbeck.recipe.sections import Evaluation
from limbeck.teachers.transformers import Transformers

KEY = {"teacher": "tests"}


@pytest.fixture(scope="module")
def teacher(screens: Path, varied_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Answers of a teacher (`answers`) and its distributions along them (`signal`)."""
    folder = tmp_path_factory.mktemp("teacher")
    model = Transformers(model=str(varied_model))
    samples = read_samples(screens, "test")
    predict(
        folder / "answers",
        model=model,
        samples=samples,
        data=screens,
        settings=Evaluation(max_new_tokens=6, batch_size=4),
        device="cpu",
    )
    keep_teacher_signal(
        folder / "signal",
        teacher=model,
        predictions=folder / "answers",
        samples=samples,
        data=screens,
        key=KEY,
        top_k=64,
        batch_size=4,
        device="cpu",
    )
    return folder


def compared(output: Path, teacher: Path, model: Path, screens: Path) -> dict[str, Any]:
    compare_with_teacher(
        output,
        model=Transformers(model=str(model)),
        signals=teacher / "signal",
        key=KEY,
        predictions=teacher / "answers",
        samples=read_samples(screens, "test"),
        data=screens,
        batch_size=3,
        device="cpu",
    )
    return json.loads((output / FIDELITY).read_text())


def test_a_student_that_is_the_teacher_agrees_everywhere_and_does_not_diverge(
    screens: Path, teacher: Path, varied_model: Path, tmp_path: Path
) -> None:
    found = compared(tmp_path, teacher, varied_model, screens)
    rows = found["samples"]
    answers = [json.loads(r) for r in (teacher / "answers/predictions.jsonl").open()]
    assert [row["id"] for row in rows] == [row["id"] for row in answers]
    assert {row["finished"] for row in answers} == {True, False}, "the fixture has both"
    assert [row["tokens"] for row in rows] == [row["new_tokens"] for row in answers]
    assert all(row["agreed"] == row["tokens"] for row in rows)
    assert sum(row["kl_nats"] for row in rows) / sum(row["tokens"] for row in rows) < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == [FIDELITY]


def test_another_student_disagrees_as_the_whole_distributions_say(
    screens: Path, teacher: Path, varied_model: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """Against both models run side by side, without a cache and without top-k."""
    found = compared(tmp_path, teacher, tiny_model, screens)["samples"]
    samples = read_samples(screens, "test")
    rows = [json.loads(r) for r in (teacher / "answers/predictions.jsonl").open()]
    texts = [row["prediction"] for row in rows]
    logits = [
        [one.logits_NV for one in Transformers(model=str(m)).open(screens, device="cpu")
         .score(samples, texts)]
        for m in (varied_model, tiny_model)
    ]  # fmt: skip
    for row, answer, p, q in zip(found, rows, *logits, strict=True):
        kept = answer["new_tokens"]
        p, q = (x[:kept].double().log_softmax(-1) for x in (p, q))
        whole = float((p.exp() * (p - q)).sum())
        assert row["agreed"] == int((p.argmax(-1) == q.argmax(-1)).sum())
        assert 0.8 * whole < row["kl_nats"] < whole * 1.001 + 1e-3  # a lower bound, coded in bytes
    assert sum(row["agreed"] for row in found) < sum(row["tokens"] for row in found)


def test_a_student_with_another_tokenizer_is_left_out_with_the_reason(
    screens: Path, teacher: Path, taught_model: Path, tmp_path: Path
) -> None:
    found = compared(tmp_path, teacher, taught_model, screens)
    assert found["samples"] == []
    assert "the tokenizers are not the same" in found["why_not"]
    arms: Any = {"teacher": {None: "teacher"}, "student": {0: "student-seed0"}}
    scores = fidelity_scores({"student-seed0": tmp_path}, arms, bounds, bootstrap=100, seed=0)
    assert scores is not None
    assert scores["arms"] == []
    assert scores["left_out"] == {"student": found["why_not"]}


def bounds(value: float, resampled: Any) -> tuple[float, float]:
    return interval(value, resampled, 0.95)


def test_scores_are_means_over_tokens_with_intervals_over_samples(tmp_path: Path) -> None:
    def write(name: str, agreed: list[int]) -> Path:
        rows = [
            {"id": str(i), "tokens": 1 + 9 * (i % 2), "agreed": n, "kl_nats": 0.1 * n}
            for i, n in enumerate(agreed)
        ]
        facts = {"why_not": None, "top_k": 4, "tail_mass": 0.1, "teacher_agreement": 1.0}
        (tmp_path / name).mkdir()
        (tmp_path / name / FIDELITY).write_text(json.dumps({**facts, "samples": rows}))
        return tmp_path / name

    folders = {
        "student-seed0": write("a", [1, 10] * 20),
        "student-seed1": write("b", [1, 0, 0, 10] * 10),
        "control-seed0": write("c", [0, 5] * 20),
    }
    arms: Any = {
        "student": {0: "student-seed0", 1: "student-seed1"},
        "control": {0: "control-seed0"},
    }
    scores = fidelity_scores(folders, arms, bounds, bootstrap=300, seed=0)
    assert scores is not None
    student, control = scores["arms"]
    agreement = student["scores"]["token_agreement"]
    assert agreement["per_seed"] == pytest.approx([1.0, (10 + 100) / 220])
    assert control["scores"]["token_agreement"]["mean"] == pytest.approx(100 / 220)
    assert control["scores"]["kl_nats"]["mean"] == pytest.approx(10 / 220)
    assert agreement["low"] < agreement["mean"] < agreement["high"]
    assert (agreement["n"], scores["samples"], scores["tokens"]) == (40, 40, 220)
    [agreed, _] = scores["differences"]
    assert (agreed["a"], agreed["b"], agreed["n"]) == ("student", "control", 40)
    assert agreed["mean"] == pytest.approx(1 - 100 / 220)
    assert fidelity_scores({}, arms, bounds, bootstrap=300, seed=0) is None


def test_a_killed_comparison_goes_on_where_it_was(
    screens: Path, teacher: Path, varied_model: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    whole = compared(tmp_path / "whole", teacher, varied_model, screens)
    first = whole["samples"][:3]
    (tmp_path / "part").mkdir()
    marked = [{**row, "kl_nats": -1.0} for row in first]
    text = "".join(json.dumps(row) + "\n" for row in marked)
    (tmp_path / "part" / "journal.jsonl").write_text(text)
    with torch.inference_mode():
        found = compared(tmp_path / "part", teacher, varied_model, screens)["samples"]
    assert [row["id"] for row in found] == [row["id"] for row in whole["samples"]]
    again = [row["kl_nats"] for row in found]
    assert again.count(-1.0) <= 3
