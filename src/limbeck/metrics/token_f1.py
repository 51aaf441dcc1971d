"""Token F1: overlap of words without order, the best over the references, mean over samples.

Words are normalised as SQuAD does (lower case, no ASCII punctuation, no articles). Where either
side has no word left, F1 is 1 if both have none and else 0 (SQuAD 2.0).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

from limbeck.metrics import Array, Metric, column
from limbeck.metrics.short_answers import normalised_words
from limbeck.records import Sample


class TokenF1(Metric):
    """F1 of normalised words as a bag, against the best reference (0-1)."""

    name: ClassVar[str] = "Token F1"

    kind: Literal["token_f1"] = "token_f1"

    def statistics(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        samples: Sequence[Sample] | None = None,
    ) -> Array:
        """F1 of each sample."""
        scores: list[float] = []
        for text, own in zip(predictions, references, strict=True):
            words = normalised_words(text)
            scores.append(max((_f1(words, normalised_words(r)) for r in own), default=0.0))
        return column(scores)


def _f1(prediction: list[str], reference: list[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    common = (Counter(prediction) & Counter(reference)).total()
    return 2 * common / (len(prediction) + len(reference))
