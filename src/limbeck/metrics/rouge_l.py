"""ROUGE-L: how much of the words, in order, prediction and reference have in common.

    P = max over references of LCS / words of the prediction
    R = max over references of LCS / words of that reference
    F = (1 + beta^2) P R / (R + beta^2 P)

(Lin 2004), as the COCO caption code does it: the best precision and the best recall may come from
different references. The corpus value is the mean over samples, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from limbeck.metrics import Array, Metric, column
from limbeck.metrics.ptb_tokenizer import tokenize
from limbeck.records import Sample


class RougeL(Metric):
    """Longest common subsequence of words, F over the best precision and recall (0-1)."""

    name: ClassVar[str] = "ROUGE-L"

    kind: Literal["rouge_l"] = "rouge_l"
    beta: float = Field(1.2, gt=0, description="above 1 recall counts for more")
    tokenizer: Literal["ptb"] = "ptb"

    def statistics(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        samples: Sequence[Sample] | None = None,
    ) -> Array:
        """F of each sample."""
        return column(
            [self._score(text, own) for text, own in zip(predictions, references, strict=True)]
        )

    def _score(self, prediction: str, references: Sequence[str]) -> float:
        # The reference code takes an empty caption for one empty word, hence `or ("",)`.
        candidate = tokenize(prediction) or ("",)
        precision = recall = 0.0
        for reference in references:
            words = tokenize(reference) or ("",)
            common = longest_common_subsequence(candidate, words)
            precision = max(precision, common / len(candidate))
            recall = max(recall, common / len(words))
        if not precision or not recall:
            return 0.0
        squared = self.beta**2
        return (1 + squared) * precision * recall / (recall + squared * precision)


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence.

    One row of the table is held in the bits of one integer (Hyyrö 2004, "Bit-parallel LCS-length
    computation revisited"), so that a megabyte of text against a caption takes no time.
    """
    if len(first) > len(second):
        first, second = second, first
    places: dict[str, int] = {}
    for index, word in enumerate(first):
        places[word] = places.get(word, 0) | (1 << index)
    full = (1 << len(first)) - 1
    row = full
    for word in second:
        match = places.get(word)
        if match is not None:
            kept = row & match
            row = ((row + kept) | (row - kept)) & full
    return len(first) - row.bit_count()
