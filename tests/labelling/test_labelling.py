"""Labels worth training on: what is unfit is named, counted and never trained on."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.data.labels import read_labels
from limbeck.data.samples import read_samples
from limbeck.errors import DataError, StoppedError, TeacherError
from limbeck.labelling import label
from limbeck.labelling.checks import unfit_reasons
from limbeck.recipe.sections import Checks, Labelling
from limbeck.records import Dense, Sample
from limbeck.teachers import Answer, Capability, Decoding, OpenTeacher, ScoredAnswer


@pytest.mark.parametrize(
    ("text", "finished", "checks", "reason"),
    [
        ("", True, {}, "empty"),
        ("  \n", True, {}, "empty"),
        ("ok", True, {"min_characters": 3}, "shorter than 3"),
        ("long answer", True, {"max_characters": 5}, "longer than 5"),
        ("an answer", False, {}, "cut by max_new_tokens"),
        ("the cat sat on the cat sat on the cat sat on the cat sat on", True, {}, "repeats"),
        ("no colon", True, {"pattern": ".*:.*"}, "pattern"),
        ("half a � character", True, {}, "broken characters"),
    ],
)
def test_unfit_answers_are_named(
    text: str, finished: bool, checks: dict[str, Any], reason: str
) -> None:
    fit = Checks()
    reasons = list(unfit_reasons(Answer(text, 5, finished), fit.model_copy(update=checks)))
    assert any(reason in found for found in reasons), reasons
    assert not list(unfit_reasons(Answer("Login screen of a book app.", 7, True), fit))


@dataclass
class FakeSession(OpenTeacher):
    """Answers with the reference, but for the samples that `odd` names."""

    odd: dict[str, Answer] = field(default_factory=lambda: {})
    blind: bool = False
    asked: list[str] = field(default_factory=lambda: [])
    vocabulary_rows = 12
    answer_frame = ("", [0])

    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[Answer]:
        self.asked += [sample.id for sample in samples]
        return [self.odd.get(s.id, Answer(s.references[0], 4, True)) for s in samples]

    def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
        scored = []
        for sample, answer in zip(samples, answers, strict=True):
            generator = torch.Generator().manual_seed(sum((sample.id + answer).encode()))
            logits_NV = torch.randn(4, 10, generator=generator)
            scored.append(ScoredAnswer(tuple(logits_NV.argmax(-1).tolist()), Dense(logits_NV)))
        return scored

    def expected_length(self, sample: Sample) -> int:
        return int(sample.id.split("-")[1])

    def visual_tokens(self, sample: Sample) -> int:
        return 12

    def check_image_sensitivity(self, samples: Sequence[Sample]) -> None:
        if self.blind:
            raise TeacherError("the pictures do not reach the model", where=samples[0].id)

    def save_tokenizer(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)


def run(
    session: FakeSession, samples: list[Sample], output: Path, /, **settings: Any
) -> dict[str, Any]:
    class FakeTeacher:
        def capabilities(self) -> frozenset[Capability]:
            return frozenset(("score", "whole_distributions"))

        def open(self, data: Path, **_: Any) -> FakeSession:
            return session

    return label(
        output,
        teacher=FakeTeacher(),  # type: ignore[arg-type]
        samples=samples,
        data=output,
        settings=Labelling.model_validate({"batch_size": 2, "top_k": 3, **settings}),
        key={"teacher": "fake"},
        device="cpu",
    )


@pytest.fixture
def samples(screens: Path) -> list[Sample]:
    return read_samples(screens, "train", 20)


def test_unfit_labels_are_kept_with_their_reasons_and_get_no_signal(
    samples: list[Sample], tmp_path: Path
) -> None:
    odd = {samples[3].id: Answer("", 1, True), samples[7].id: Answer("cut", 9, False)}
    summary = run(FakeSession(odd), samples, tmp_path)
    assert summary["valid"] == 18
    assert summary["unfit_reasons"] == {"empty": 1, "cut by max_new_tokens": 1}
    assert summary["signals"]["samples"] == 18
    rows = read_labels(tmp_path)
    assert [row.sample_id for row in rows] == [sample.id for sample in samples]
    assert [row.sample_id for row in rows if not row.valid] == [samples[3].id, samples[7].id]
    assert all((row.mean_log_probability is None) == (not row.valid) for row in rows)


def test_too_many_unfit_answers_stop_the_run_with_an_example(
    samples: list[Sample], tmp_path: Path
) -> None:
    odd = {sample.id: Answer("", 1, True) for sample in samples[:5]}
    with pytest.raises(TeacherError, match=r"5 of 20 answers are unfit \(5x empty\)") as raised:
        run(FakeSession(odd), samples, tmp_path)
    assert samples[0].id in str(raised.value)
    assert raised.value.exit_code == 4
    assert "or raise the share" in str(raised.value)


def test_where_no_answer_is_fit_a_larger_share_is_not_proposed(
    samples: list[Sample], tmp_path: Path
) -> None:
    odd = {sample.id: Answer("", 1, True) for sample in samples}
    with pytest.raises(TeacherError, match="20 of 20 answers are unfit") as raised:
        run(FakeSession(odd), samples, tmp_path)
    assert "loosen label.checks" in str(raised.value)
    assert "share" not in str(raised.value.mend)


def test_a_blind_teacher_is_refused_before_it_labels(samples: list[Sample], tmp_path: Path) -> None:
    session = FakeSession(blind=True)
    with pytest.raises(TeacherError, match="do not reach"):
        run(session, samples, tmp_path)
    assert not session.asked


def test_gold_answers_need_references(samples: list[Sample], tmp_path: Path) -> None:
    from dataclasses import replace

    without = [replace(samples[0], references=()), *samples[1:]]
    with pytest.raises(DataError, match=samples[0].id):
        run(FakeSession(), without, tmp_path, answers="gold")


def test_answers_that_are_not_the_argmax_are_refused(samples: list[Sample], tmp_path: Path) -> None:
    class Wrong(FakeSession):
        def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
            rows = super().score(samples, answers)
            return [ScoredAnswer(row.answer_ids, Dense(-row.logits_NV)) for row in rows]

    with pytest.raises(TeacherError, match="argmax"):
        run(Wrong(), samples, tmp_path)


@pytest.mark.parametrize("tear", [False, True])
def test_a_killed_job_asks_for_nothing_twice_but_what_it_lost(
    samples: list[Sample], tmp_path: Path, tear: bool
) -> None:
    whole = tmp_path / "whole"
    run(FakeSession(), samples, whole)

    class Dying(FakeSession):
        def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[Answer]:
            if len(self.asked) >= 12:
                raise KeyboardInterrupt
            return super().generate(samples, decoding)

    broken = tmp_path / "broken"
    first = Dying()
    with pytest.raises(KeyboardInterrupt):
        run(first, samples, broken)
    if tear:
        (shard,) = broken.glob("signals-*.safetensors")
        shard.write_bytes(shard.read_bytes()[:-7])
    second = FakeSession()
    run(second, samples, broken)
    kept = 0 if tear else 8
    assert len(second.asked) == 20 - kept, "four batches of two were saved"
    assert (broken / "labels.parquet").read_bytes() == (whole / "labels.parquet").read_bytes()


def test_a_signal_stops_between_batches_and_keeps_what_is_finished(
    samples: list[Sample], tmp_path: Path
) -> None:
    class Stopped(FakeSession):
        def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[Answer]:
            if len(self.asked) == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            return super().generate(samples, decoding)

    with pytest.raises(StoppedError, match="SIGTERM") as raised:
        run(Stopped(), samples, tmp_path)
    assert raised.value.exit_code == 75
    rest = FakeSession()
    run(rest, samples, tmp_path)
    assert len(rest.asked) == 20 - 6


def test_gold_is_mixed_in_and_of_several_answers_one_is_kept(
    samples: list[Sample], tmp_path: Path
) -> None:
    summary = run(FakeSession(), samples, tmp_path / "gold", gold_share=0.5)
    rows = read_labels(tmp_path / "gold")
    assert 0 < summary["gold"] == sum(row.gold for row in rows) < len(rows)
    assert summary["signals"]["samples"] == len(rows)
    session = FakeSession()
    run(session, samples, tmp_path / "several", samples=3, temperature=1.0)
    assert len(session.asked) == 3 * len(samples)
    rows = read_labels(tmp_path / "several")
    assert [row.sample_id for row in rows] == [sample.id for sample in samples]
    assert {row.agreement for row in rows} == {1.0}
