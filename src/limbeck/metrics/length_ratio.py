"""Length ratio: words of the predictions over words of the references, both summed.

Not a measure of quality: it explains the others, since overlap metrics punish an answer that is
much longer or shorter than its references however right it is. A word is what stands between
white space. Of several references the mean length counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from limbeck.metrics import Array, Metric
from limbeck.records import Sample


class LengthRatio(Metric):
    """Words of the predictions over words of the references (1 = equally long)."""

    name: ClassVar[str] = "Length ratio"
    scale: ClassVar[str] = "from 0; 1 = as long as the references"
    higher_is_better: ClassVar[bool] = False

    kind: Literal["length_ratio"] = "length_ratio"

    def statistics(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        samples: Sequence[Sample] | None = None,
    ) -> Array:
        """Words of the prediction, of the references, and whether it is empty."""
        rows: list[tuple[float, float, float]] = []
        for text, own in zip(predictions, references, strict=True):
            words = len(text.split())
            rows.append((words, sum(len(r.split()) for r in own) / max(1, len(own)), not words))
        return np.asarray(rows, dtype=np.float64)

    def aggregate(self, sums: Array, n: int) -> Array:
        """The ratio; references without any word count as one word."""
        ratio = sums[..., 0] / np.maximum(sums[..., 1], 1.0)
        return np.where((sums[..., 0] == 0) & (sums[..., 1] == 0), 1.0, ratio)

    def details(self, sums_d: Array, n: int) -> dict[str, float | str]:
        """Mean words of a prediction and of a reference, and the share of empty predictions."""
        words, reference_words, empty = (float(value) / n for value in sums_d)
        return {
            "words_mean": words,
            "reference_words_mean": reference_words,
            "empty_share": empty,
        }
