"""Length error: how far an answer's length is from its references', as a share of theirs.

|words - reference words| / reference words, averaged over samples; 0 is best, an empty answer
has 1.
Not a measure of what is said: it explains the other metrics, since overlap punishes an answer that
is much longer or shorter than its references however right it is. A word is what stands between
white space. Of several references the mean length counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from limbeck.metrics import Array, Metric
from limbeck.records import Sample


class LengthError(Metric):
    """Mean relative distance between the lengths of answer and references, in words."""

    name: ClassVar[str] = "Length error"
    scale: ClassVar[str] = "from 0, the references' own length; 1 = empty or twice as long"
    higher_is_better: ClassVar[bool] = False

    kind: Literal["length_error"] = "length_error"

    def statistics(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        samples: Sequence[Sample] | None = None,
    ) -> Array:
        """Relative distance, words of the prediction, of the references, whether it is empty."""
        rows: list[tuple[float, float, float, bool]] = []
        for text, own in zip(predictions, references, strict=True):
            words = len(text.split())
            reference_words = sum(len(r.split()) for r in own) / max(1, len(own))
            distance = abs(words - reference_words) / max(1.0, reference_words)
            rows.append((distance, words, reference_words, not words))
        return np.asarray(rows, dtype=np.float64)

    def details(self, sums_d: Array, n: int) -> dict[str, float | str]:
        """Mean words of a prediction and of a reference, their ratio, the share of empty ones."""
        _, words, reference_words, empty = (float(value) / n for value in sums_d)
        return {
            "words_mean": words,
            "reference_words_mean": reference_words,
            "ratio": words / max(reference_words, 1e-9),
            "empty_share": empty,
        }
