"""On-policy: the student writes, the live teacher scores, and only the answer is in the loss."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from limbeck import pipeline
from limbeck.errors import UsageError
from limbeck.records import Sample
from limbeck.training import stage
from limbeck.training.batches import Example
from limbeck.training.loop import _Loop
from limbeck.training.own_answers import drawn_steps
from test_pipeline import tiny_recipe

OWN = {
    "losses": [
        {"kind": "cross_entropy", "weight": 0.5},
        {"kind": "divergence", "target": "student", "direction": "reverse", "weight": 0.5},
    ],
    "label__signal": "live",
    "training__on_policy": {"max_new_tokens": 6, "refresh_every": 2},
    "training__log_every": 1,
    "training__steps": 5,
    "seeds": [0],
    "evaluate__models": ["student"],
    "benchmark__models": None,
}


def train(work: Path, **changes: Any) -> Path:
    result = pipeline.run(tiny_recipe(work, **{**OWN, **changes}), until="train")
    return Path(result.stages[-1]["folder"])


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_teacher_scores_what_the_student_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[str] = []
    live_signal = stage.live_signal

    def spying(session: Any, examples: Any, own_answers: Any, columns_of: Any) -> Any:
        score = session.score

        def remembered(samples: Any, answers: Any) -> Any:
            scored.extend(zip((s.id for s in samples), answers, strict=True))
            assert all(own_answers[s.id] == a for s, a in zip(samples, answers, strict=True))
            return score(samples, answers)

        session.score = remembered
        return live_signal(session, examples, own_answers, columns_of)

    monkeypatch.setattr(stage, "live_signal", spying)
    folder = train(tmp_path / "work")
    assert len(scored) == 5 * 4, "one answer a sample and step"
    for row in rows(folder):
        assert row["losses"]["divergence_reverse"] > 0
        assert row["losses"]["cross_entropy"] > 0


def test_killed_in_a_window_it_goes_on_with_the_same_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(tmp_path / "whole", training__checkpoint_every=1)
    update, calls = _Loop._update, 0

    def cut(self: _Loop, *rest: Any) -> Any:
        nonlocal calls
        calls += self.job.title != "teacher"
        if calls == 4:  # in the middle of the second window
            raise KeyboardInterrupt
        return update(self, *rest)

    monkeypatch.setattr(_Loop, "_update", cut)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", training__checkpoint_every=1)
    monkeypatch.undo()
    broken = train(tmp_path / "broken", training__checkpoint_every=1)
    weights = "student/model.safetensors"
    assert (broken / weights).read_bytes() == (whole / weights).read_bytes()


def test_a_fraction_of_the_samples_is_drawn_by_seed() -> None:
    samples = [Sample(str(i), "train", ()) for i in range(400)]
    examples = [Example(s, "x", t) for s in samples for t in ("student", "teacher")]
    steps = [list(range(start, start + 40)) for start in range(0, 800, 40)]
    kept = drawn_steps(steps, examples, 0.3, seed=1)
    assert kept == drawn_steps(steps, examples, 0.3, seed=1)
    assert kept != drawn_steps(steps, examples, 0.3, seed=2)
    flat = [i for step in kept for i in step]
    assert sum(examples[i].target == "teacher" for i in flat) == 400
    assert 90 <= sum(examples[i].target == "student" for i in flat) <= 150
    assert all(drawn_steps([[0, 2]], examples, 1e-9, seed=0)), "no step is left empty"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"label__signal": "top_k"}, "label.signal"),
        ({"losses": [{"kind": "cross_entropy", "target": "student"}]}, "no truth"),
    ],
)
def test_what_cannot_be_on_policy_is_refused_before_anything_runs(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        train(tmp_path / "work", **changes)
    assert not (tmp_path / "work").exists()
