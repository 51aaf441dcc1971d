"""Which answer a sample is trained on: the reference or the teacher's, and which of several."""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, cast

from limbeck.errors import TeacherError
from limbeck.labelling.words import words_of
from limbeck.metrics import Metric
from limbeck.metrics.short_answers import normalised_words
from limbeck.recipe.component import build_component
from limbeck.recipe.labelling import REFERENCE, Labelling
from limbeck.records import Sample
from limbeck.teachers import Answer

AnswerKind = Literal["gold", "generated"]


def answer_kinds(samples: Sequence[Sample], settings: Labelling) -> dict[str, AnswerKind]:
    """For each sample id, whether its answer is the first reference or the teacher's own.

    With `gold_share` each sample that has a reference is drawn by seed and id alone, so that more
    samples or another order change nothing for those there were.
    """
    share = 1.0 if settings.answers == "gold" else settings.gold_share or 0.0
    return {
        sample.id: "gold" if _draws_gold(sample, settings, share) else "generated"
        for sample in samples
    }


def _draws_gold(sample: Sample, settings: Labelling, share: float) -> bool:
    if settings.answers == "gold":
        return True
    digest = hashlib.sha256(f"gold {settings.seed} {sample.id}".encode()).digest()
    return bool(sample.references) and int.from_bytes(digest[:8]) / 2**64 < share


def agreement(texts: Sequence[str]) -> list[float]:
    """How much each answer is like the others: mean token F1 with each of them, 0 to 1.

    Words are normalised as in the metric `token_f1`, after NFKC; equal answers count one by one. A
    single answer has nobody to disagree with, and an answer without a word agrees with none.
    """
    bags = [Counter(_normalised(text)) for text in texts]
    if len(bags) == 1:
        return [1.0]
    return [
        sum(_f1(bag, other) for j, other in enumerate(bags) if j != i) / (len(bags) - 1)
        for i, bag in enumerate(bags)
    ]


@dataclass(frozen=True)
class Chosen:
    """The answer that was kept, its place among the others, and its agreement with them."""

    answer: Answer
    number: int
    agreement: float


def choose(
    answers: Sequence[Answer],
    by: str = "agreement",
    *,
    fit: Callable[[Answer], bool] = lambda answer: True,
    sample: Sample | None = None,
) -> Chosen:
    """The best of several answers to one sample; of equally good ones the first.

    Args:
        answers: at least one.
        by: agreement, confidence, first, or reference:METRIC (which needs `sample`, and goes by
            agreement where it has no reference).
        fit: whether an answer may be kept. Those that may not agree or disagree with the others
            all the same; where none may, one of them is kept, for its reasons to be seen.
        sample: what was asked.

    Raises:
        TeacherError: the teacher gave no log-probabilities to choose by.
    """
    said = [i for i, a in enumerate(answers) if a.failure is None and a.text.strip()]
    if not said:
        return Chosen(answers[0], 0, 0.0)
    agreements = dict(zip(said, agreement([answers[i].text for i in said]), strict=True))
    allowed = [i for i in said if fit(answers[i])] or said
    scores = _scores([answers[i] for i in allowed], by, sample)
    if scores is None:
        scores = [agreements[i] for i in allowed]
    number = allowed[scores.index(max(scores))]
    return Chosen(answers[number], number, agreements[number])


def _scores(answers: Sequence[Answer], by: str, sample: Sample | None) -> list[float] | None:
    """What is to be largest, for each answer; None where agreement is to decide."""
    if by == "first":
        return [0.0] * len(answers)
    if by == "confidence":
        known = [a.mean_log_probability for a in answers if a.mean_log_probability is not None]
        if len(known) < len(answers):
            raise TeacherError(
                "the teacher gives no log-probabilities with its answers",
                where="label.choose: confidence",
                mend="choose by agreement or by a reference metric",
            )
        return known
    if by.startswith(REFERENCE):
        if sample is None or not sample.references:
            return None
        metric = _metric(by.removeprefix(REFERENCE))
        n = len(answers)
        texts, references = [answer.text for answer in answers], [sample.references] * n
        found_n = metric.compute(texts, references, [sample] * n).per_sample
        return found_n if metric.higher_is_better else [-value for value in found_n]
    assert by == "agreement", by
    return None


@cache
def _metric(word: str) -> Metric:
    return cast(Metric, build_component("limbeck.metrics", "kind", word))


def _normalised(text: str) -> list[str]:
    words = normalised_words(unicodedata.normalize("NFKC", text).casefold())
    return [piece for word in words for piece in words_of(word)]


def _f1(a: Counter[str], b: Counter[str]) -> float:
    common = (a & b).total()
    return 2 * common / (a.total() + b.total()) if common else 0.0
