"""chrF: F-score of character n-grams, n = 1..6, without white space (Popović 2015).

Precision and recall are averaged over n, then F = (1 + beta^2) P R / (beta^2 P + R). Of several
references the one with the best F counts. The corpus value comes from summed counts, 0 to 100, and
is that of sacrebleu (checked by a test).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from limbeck.metrics import Array, Metric
from limbeck.records import Sample


class Chrf(Metric):
    """Character n-gram F-score against the best reference, chrF (0-100)."""

    name: ClassVar[str] = "chrF"
    scale: ClassVar[str] = "0-100"

    kind: Literal["chrf"] = "chrf"
    order: int = Field(6, gt=0, description="longest n-gram, characters")
    beta: int = Field(2, gt=0, description="above 1 recall counts for more")

    @property
    def signature(self) -> str:
        """In sacrebleu's form."""
        import sacrebleu

        options = f"nrefs:var|case:mixed|eff:yes|nc:{self.order}|nw:0|space:no"
        return f"chrF{self.beta}|{options}|version:{sacrebleu.__version__}"

    def statistics(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        samples: Sequence[Sample] | None = None,
    ) -> Array:
        """Counts against the best reference."""
        best: list[Array] = []
        for text, own in zip(predictions, references, strict=True):
            prediction = "".join(text.split())
            rows = [self._matches(prediction, "".join(r.split())) for r in dict.fromkeys(own)]
            stacked = np.asarray(rows or [[0] * (3 * self.order)], dtype=np.float64)
            best.append(stacked[int(self.aggregate(stacked, 1).argmax())])
        return np.stack(best)

    def aggregate(self, sums: Array, n: int) -> Array:
        """chrF of summed counts."""
        ours, theirs, common = np.moveaxis(sums.reshape(*sums.shape[:-1], self.order, 3), -1, 0)
        counted = (ours > 0) & (theirs > 0)
        orders = np.maximum(counted.sum(axis=-1), 1)
        precision = np.where(counted, common / np.maximum(ours, 1), 0.0).sum(axis=-1) / orders
        recall = np.where(counted, common / np.maximum(theirs, 1), 0.0).sum(axis=-1) / orders
        squared = self.beta**2
        below = squared * precision + recall
        return 100.0 * (1 + squared) * precision * recall / np.where(below > 0, below, 1.0)

    def _matches(self, prediction: str, reference: str) -> list[int]:
        """For each n: n-grams of the prediction, of the reference, and common to both."""
        found: list[int] = []
        short, long = sorted((prediction, reference), key=len)
        for n in range(1, self.order + 1):
            ours, theirs = (max(0, len(t) - n + 1) for t in (prediction, reference))
            # Only the shorter text's n-grams are held, so that a huge prediction stays cheap.
            left = Counter(short[i : i + n] for i in range(len(short) - n + 1))
            total = left.total()
            if total:
                left.subtract(g for g in _grams(long, n) if g in left)
            missed = sum(count for count in left.values() if count > 0)
            found += [ours if theirs else 0, theirs, total - missed]
        return found


def _grams(text: str, n: int) -> list[str]:
    return [text[i : i + n] for i in range(len(text) - n + 1)]
