"""Several ranks share one labelling job and end in the labels that one alone would have written."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.data.labels import read_labels
from limbeck.data.samples import read_samples
from limbeck.labelling import label
from limbeck.labelling.share import Share
from limbeck.recipe.sections import Labelling
from limbeck.records import Dense, Sample
from limbeck.signals.reader import SignalReader
from limbeck.signals.top_k_coding import FORMAT
from limbeck.teachers import Answer, Capability, Decoding, OpenTeacher, ScoredAnswer


class Session(OpenTeacher):
    """Answers with the reference; `dies_after` samples it is killed."""

    vocabulary_rows = 12
    answer_frame = ("", [0])

    def __init__(self, dies_after: int = 10**6) -> None:
        self.asked: list[str] = []
        self.dies_after = dies_after

    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[Answer]:
        if len(self.asked) >= self.dies_after:
            raise KeyboardInterrupt
        self.asked += [sample.id for sample in samples]
        return [Answer(sample.references[0], 4, True) for sample in samples]

    def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
        scored = []
        for sample, answer in zip(samples, answers, strict=True):
            generator = torch.Generator().manual_seed(sum((sample.id + answer).encode()))
            logits_NV = torch.randn(4, 10, generator=generator)
            ids = tuple(logits_NV.argmax(-1).tolist())
            scored.append(ScoredAnswer(ids, Dense(logits_NV)))
        return scored

    def visual_tokens(self, sample: Sample) -> int:
        return 12

    def check_image_sensitivity(self, samples: Sequence[Sample]) -> None:
        pass

    def save_tokenizer(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)


def label_with(session: Session, samples: list[Sample], output: Path, **settings: Any) -> Any:
    class Fake:
        def capabilities(self) -> frozenset[Capability]:
            return frozenset(("score", "whole_distributions"))

        def open(self, data: Path, **_: Any) -> Session:
            return session

    return label(
        output,
        teacher=Fake(),  # type: ignore[arg-type]
        samples=samples,
        data=output,
        settings=Labelling.model_validate({"batch_size": 2, "top_k": 3, **settings}),
        key={"teacher": "fake"},
        device="cpu",
    )


def as_rank(monkeypatch: pytest.MonkeyPatch, rank: int, ranks: int) -> None:
    monkeypatch.setattr(
        Share, "of_this_rank", classmethod(lambda cls, stage: cls(stage, rank, ranks))
    )


@pytest.fixture
def samples(screens: Path) -> list[Sample]:
    return read_samples(screens, "train", 21)


@pytest.fixture
def alone(samples: list[Sample], tmp_path: Path) -> Path:
    label_with(Session(), samples, tmp_path / "alone")
    return tmp_path / "alone"


def require_same(found: Path, expected: Path, samples: list[Sample]) -> None:
    assert (found / "labels.parquet").read_bytes() == (expected / "labels.parquet").read_bytes()
    one, other = (SignalReader(folder, {"teacher": "fake"}) for folder in (found, expected))
    assert set(one.sample_ids) == set(other.sample_ids) == {sample.id for sample in samples}
    for sample in samples:
        answer = other.answer_ids(sample.id)
        for own, theirs in zip(
            one.rows(sample.id, answer), other.rows(sample.id, answer), strict=True
        ):
            assert (own == theirs).all()
    assert not list(found.glob("rank-*")), "what belongs to one rank is gone"
    assert not (found / "labels.jsonl").exists()


def test_two_ranks_ask_for_each_sample_once_and_write_what_one_would(
    samples: list[Sample], alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, other, own = tmp_path / "shared", Session(), Session()
    as_rank(monkeypatch, 1, 2)
    assert label_with(other, samples, shared) == {}
    as_rank(monkeypatch, 0, 2)
    label_with(own, samples, shared)
    assert sorted(own.asked + other.asked) == sorted(sample.id for sample in samples)
    assert abs(len(own.asked) - len(other.asked)) <= 2
    require_same(shared, alone, samples)


def test_rank_0_waits_for_the_last(
    samples: list[Sample], alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    as_rank(monkeypatch, 0, 2)
    monkeypatch.setattr("limbeck.labelling.share.POLL_SECONDS", 0.01)
    first = threading.Thread(target=label_with, args=(Session(), samples, shared))
    first.start()
    first.join(1.0)
    assert first.is_alive(), "half of the labels are missing"
    as_rank(monkeypatch, 1, 2)
    label_with(Session(), samples, shared)
    first.join(30)
    assert not first.is_alive()
    require_same(shared, alone, samples)


@pytest.mark.parametrize("later", [1, 2, 3])
def test_another_number_of_ranks_goes_on_where_two_were_killed(
    samples: list[Sample], alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    shared = tmp_path / "shared"
    for rank in (0, 1):
        as_rank(monkeypatch, rank, 2)
        with pytest.raises(KeyboardInterrupt):
            label_with(Session(dies_after=8), samples, shared)
    kept = set(Share(shared).done(FORMAT))
    with (shared / "rank-1" / "labels.jsonl").open("ab") as torn:
        torn.write(b'{"sample_id": "half a li')
    sessions = [Session() for _ in range(later)]
    for rank in reversed(range(later)):
        as_rank(monkeypatch, rank, later)
        label_with(sessions[rank], samples, shared)
    asked = [sample_id for session in sessions for sample_id in session.asked]
    assert len(asked) == len(set(asked))
    assert len(kept) == 16
    assert not kept & set(asked), "what was saved is not asked for again"
    require_same(shared, alone, samples)


def test_a_torn_shard_of_another_rank_is_labelled_again(
    samples: list[Sample], alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared"
    as_rank(monkeypatch, 1, 2)
    label_with(Session(), samples, shared)
    torn = sorted((shared / "rank-1").glob("signals-*"))[0]
    torn.write_bytes(torn.read_bytes()[:-5])
    as_rank(monkeypatch, 1, 2)
    again = Session()
    label_with(again, samples, shared)
    assert again.asked
    as_rank(monkeypatch, 0, 2)
    label_with(Session(), samples, shared)
    require_same(shared, alone, samples)
    assert [row.sample_id for row in read_labels(shared)] == [sample.id for sample in samples]
