"""The answers that samples get: gold by share, of several the best, in any order they come."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from limbeck.data.samples import read_samples
from limbeck.errors import TeacherError
from limbeck.labelling.answers import Kept, answered, labels_of
from limbeck.recipe.labelling import Checks, Labelling
from limbeck.records import Dense, Sample
from limbeck.teachers import Answer, Answered, Decoding, OpenTeacher, Request, ScoredAnswer


@dataclass
class Several(OpenTeacher):
    """Has the answers of `said` by number, and gives them in a disorder."""

    said: list[str]
    scores: bool = True
    asked: list[Request] = field(default_factory=lambda: [])

    def stream(
        self, batches: Iterable[Sequence[Request]], decoding: Decoding, *, workers: int = 0
    ) -> Iterator[Answered]:
        planned = [list(batch) for batch in batches]
        self.asked = [request for batch in planned for request in batch]
        random.Random(0).shuffle(planned)
        for batch in planned:
            yield batch, [Answer(self.said[request.number], 2, True) for request in batch]

    def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
        if not self.scores:
            return super().score(samples, answers)
        logits = [torch.tensor([[float(len(text)), 0.0]] * 2) for text in answers]
        return [ScoredAnswer((0, 0), Dense(rows)) for rows in logits]


BATCHES = [
    [Sample(f"s{b}{i}", "train", (), references=("gold",) if i else ()) for i in range(3)]
    for b in range(4)
]


def kept(session: OpenTeacher, **settings: object) -> list[Kept]:
    label = Labelling.model_validate(settings)
    groups = list(answered(session, BATCHES, label, Decoding(8)))
    assert all(groups)
    return [one for group in groups for one in group]


def test_each_sample_is_asked_so_often_and_passed_on_once_with_the_best() -> None:
    session = Several(["a red car", "blue boat", "red car"])
    found = kept(session, samples=3, temperature=1)
    assert sorted(one.sample.id for one in found) == sorted(s.id for b in BATCHES for s in b)
    assert {one.answer.text for one in found} == {"a red car"}
    assert all(one.agreement == pytest.approx(0.5) and not one.gold for one in found)
    assert len(session.asked) == 36
    assert len({(r.sample.id, r.number) for r in session.asked}) == 36


def test_one_answer_is_taken_as_it_is() -> None:
    session = Several([""])
    assert all((one.answer.text, one.agreement) == ("", None) for one in kept(session))
    assert [r.sample.id for r in session.asked] == [s.id for batch in BATCHES for s in batch]


def test_gold_samples_are_not_asked_about() -> None:
    session = Several(["own"])
    found = {one.sample.id: one for one in kept(session, gold_share=1)}
    assert len(found) == 12
    for name, one in found.items():
        assert one.gold == (not name.endswith("0"))
        assert one.answer.text == ("gold" if one.gold else "own")
    assert len(session.asked) == 4
    assert not [one for one in kept(session, answers="generated", gold_share=0) if one.gold]


def test_unfit_answers_are_passed_over_where_others_are_fit() -> None:
    session = Several(["one two three", "one two three", "one two"])
    found = kept(session, samples=3, temperature=1, checks={"max_words": 2})
    assert {one.answer.text for one in found} == {"one two"}


def test_confidence_is_scored_where_answers_come_without() -> None:
    session = Several(["a", "longest", "mid"])
    found = kept(session, samples=3, temperature=1, choose="confidence")
    assert {one.answer.text for one in found} == {"longest"}
    assert all(one.answer.mean_log_probability < 0 for one in found)
    with pytest.raises(TeacherError, match="cannot score"):
        kept(Several(["a", "b"], scores=False), samples=2, temperature=1, choose="confidence")


def test_an_unsure_answer_is_unfit() -> None:
    found = kept(Several([""]), checks={"min_mean_log_probability": -0.1})
    assert found[0].answer.mean_log_probability is None, "nothing to score"
    checks = Checks(min_mean_log_probability=-0.1, min_agreement=0.5)
    sure, unsure = (
        labels_of(kept(Several([text]), checks={"min_mean_log_probability": -0.1}), checks)[0]
        for text in ("a long answer", "a")
    )
    assert sure.valid
    assert sure.mean_log_probability is not None
    assert unsure.reasons == ("mean log-probability below -0.1",)


def test_labels_keep_agreement_and_gold() -> None:
    sample = BATCHES[0][0]
    rows = labels_of(
        [
            Kept(sample, Answer("x y", 2, True), agreement=0.2),
            Kept(sample, Answer("gold", 0, True), gold=True),
            Kept(sample, Answer("", 0, True, failure="refused by the server")),
        ],
        Checks(min_agreement=0.5),
    )
    assert [(r.valid, r.agreement, r.gold) for r in rows] == [
        (False, 0.2, False),
        (True, None, True),
        (False, None, False),
    ]
    assert rows[0].reasons == ("agreement below 0.5",)
    assert rows[2].reasons == ("refused by the server",)


def test_a_real_teacher_gives_other_answers_for_other_numbers(
    screens: Path, tiny_model: Path
) -> None:
    from limbeck.teachers.transformers import Transformers

    samples = read_samples(screens, "train", 4)
    session = Transformers(model=str(tiny_model)).open(screens, device="cpu")
    decoding = Decoding(8, temperature=1.0, seed=3)
    batches = [[Request(s, number) for s in samples] for number in (0, 1, 0)]
    texts = [[a.text for a in answers] for _, answers in session.stream(batches, decoding)]
    assert texts[0] == texts[2]
    assert texts[0] != texts[1]
