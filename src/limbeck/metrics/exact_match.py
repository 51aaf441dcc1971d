"""Exact match: the share of predictions that equal one of their references.

With `normalise` (the default) both are first brought to lower case without ASCII punctuation,
articles and extra white space, as SQuAD does; without it only white space at both ends is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from limbeck.metrics import Array, Metric, column
from limbeck.metrics.short_answers import normalised_words
from limbeck.records import Sample


class ExactMatch(Metric):
    """Share of predictions that equal a reference (0-1)."""

    name: ClassVar[str] = "Exact match"

    kind: Literal["exact_match"] = "exact_match"
    normalise: bool = True

    def statistics(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        samples: Sequence[Sample] | None = None,
    ) -> Array:
        """1 or 0 for each sample."""
        return column(
            [
                float(self._form(text) in {self._form(reference) for reference in own})
                for text, own in zip(predictions, references, strict=True)
            ]
        )

    def _form(self, text: str) -> str:
        return " ".join(normalised_words(text)) if self.normalise else text.strip()
