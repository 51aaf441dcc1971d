"""Metrics, one a file; this module holds what they share.

A metric turns each sample into one row of numbers (its statistics). A corpus value is a function
of the sum of those rows, for means and for corpus metrics such as BLEU alike. So the bootstrap
resamples sums of rows and never reads a text again.

Shapes: n samples, d statistics of a sample. Leading dimensions of sums are free (resamples).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import DataError
from limbeck.recipe.component import Component
from limbeck.records import Sample

Array = NDArray[np.float64]


@dataclass(frozen=True)
class MetricResult:
    """A metric on n samples: its value, that of every sample, and what a bootstrap resamples."""

    value: float
    per_sample: list[float]
    statistics_nd: Array
    details: dict[str, float | str]


class Metric(Component):
    """Base of every metric.

    A concrete metric supplies `statistics`; a mean over samples has one column and needs no more.
    Any other overrides `aggregate` as well. `scale` says in reports what the number may be.
    `reads_corpus` is set where the number of one sample depends on the others.
    """

    name: ClassVar[str]
    scale: ClassVar[str] = "0-1"
    higher_is_better: ClassVar[bool] = True
    needs_references: ClassVar[bool] = True
    reads_corpus: ClassVar[bool] = False

    @property
    def key(self) -> str:
        """The word in the recipe; metrics are kept under it in results."""
        return str(getattr(self, self.selector))

    @property
    def signature(self) -> str:
        """Everything that decides the number, for reports: the name and the options."""
        options = {k: v for k, v in self.model_dump().items() if k != self.selector}
        return "|".join([self.key, *(f"{k}:{_word(v)}" for k, v in options.items())])

    def content_key(self) -> Any:
        """What identifies files that it reads beside the texts, for fingerprints; None: none.

        Raises:
            UsageError: they are not on this machine.
        """
        return None

    def applies_to(self, references: Sequence[str], sample: Sample | None) -> bool:
        """Whether a sample has what this metric compares with; others are left out and counted."""
        return bool(references) or not self.needs_references

    def statistics(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        samples: Sequence[Sample] | None = None,
    ) -> Array:
        """One row of numbers for each sample, [n, d]; the reading of texts happens here."""
        raise NotImplementedError

    def aggregate(self, sums: Array, n: int) -> Array:
        """The corpus value from sums of rows [..., d] over n samples; the first column's mean."""
        return sums[..., 0] / n

    def details(self, sums_d: Array, n: int) -> dict[str, float | str]:
        """Further numbers that belong to the value."""
        return {}

    def compute(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        samples: Sequence[Sample] | None = None,
    ) -> MetricResult:
        """Score n predictions, each against any number of references.

        Raises:
            DataError: nothing to score, or lists of different lengths.
        """
        lengths = {len(predictions), len(references), len(samples or predictions)}
        if len(lengths) > 1:
            raise DataError(f"{self.name}: predictions, references and samples differ in number")
        if not predictions:
            raise DataError(f"{self.name}: there is no sample to score")
        rows = self.statistics(predictions, references, samples)
        n, sums = len(rows), rows.sum(axis=0)
        return MetricResult(
            value=float(self.aggregate(sums, n)),
            per_sample=[float(value) for value in self.aggregate(rows, 1)],
            statistics_nd=rows,
            details=self.details(sums, n),
        )


def column(values: Sequence[float]) -> Array:
    """The statistics [n, 1] of a metric that is a mean."""
    return np.asarray(values, dtype=np.float64).reshape(-1, 1)


def _word(value: Any) -> str:
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
