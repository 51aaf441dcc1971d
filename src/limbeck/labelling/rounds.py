"""Growing the training data: which pictures a round labels, and which answers are trained on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from limbeck.errors import DataError, UsageError
from limbeck.recipe.growth import Grow, Keep
from limbeck.records import Label, Sample

FIRST_ROUND = 1
"""The number of the round that trains on the first labels; growing begins with the next."""


@dataclass(frozen=True)
class Grown:
    """What a training takes from the rounds before it.

    `chosen` holds for each round the ids of the samples whose answers are trained on; `facts` says
    what became of each round's answers.
    """

    chosen: list[list[str]]
    facts: list[dict[str, Any]]


def portion(
    pool: Sequence[Sample], first: Sequence[Sample], grow: Grow, number: int
) -> list[Sample]:
    """The samples that round `number` labels.

    Args:
        pool: the samples of the unlabelled split.
        first: those of the first labels, which are not in the pool.
        grow: size of a part, and seed of the order.
        number: of the round, from 2.

    Raises:
        UsageError: the pool is empty, or holds less than one part.
    """
    labelled = {sample.id for sample in first}
    pool = [sample for sample in pool if sample.id not in labelled]
    size = grow.samples_per_round or len(pool)
    if not pool or size > len(pool):
        raise UsageError(
            f"a round labels {size} samples, and the pool has {len(pool)}"
            if pool
            else f"split {grow.split!r} has no samples beside those of the first labels",
            where="grow.samples_per_round" if pool else "grow.split",
            mend="lower it" if pool else "name a split that is not all labelled",
        )

    def place(sample: Sample) -> bytes:
        return hashlib.sha256(f"grow {grow.seed} {sample.id}".encode()).digest()

    ordered = sorted(pool, key=place)
    start = (number - FIRST_ROUND - 1) * size
    chosen = {ordered[(start + i) % len(ordered)].id for i in range(size)}
    return [sample for sample in pool if sample.id in chosen]


def grown_labels(rounds: Sequence[Sequence[Label]], first: int, grow: Grow) -> Grown:
    """Choose what is trained on of the answers of all rounds so far.

    Args:
        rounds: the labels of each round, the earliest first.
        first: how many first labels there are, which `grow.ratio` refers to.
        grow: what is sure enough, and how many there may be.

    Raises:
        DataError: answers are to be sorted by confidence and have none.
    """
    kept = [_sure(labels, grow.keep, number) for number, labels in enumerate(rounds, start=2)]
    latest = {row.sample_id: number for number, rows in enumerate(kept) for row in rows}
    joined = [
        (number, row)
        for number, rows in enumerate(kept)
        for row in rows
        if latest[row.sample_id] == number
    ]
    most = int(grow.ratio * first)
    surest = sorted(joined, key=lambda one: -_confidence(one[1]))[:most]
    taken = {row.sample_id for _, row in surest}
    chosen = [
        [row.sample_id for own, row in joined if own == number and row.sample_id in taken]
        for number in range(len(rounds))
    ]
    facts = [
        {
            "round": number,
            "labelled": len(labels),
            "fit": sum(row.valid for row in labels),
            "kept": len(sure),
            "trained_on": len(ids),
            "mean_log_probability": _mean([row for row in labels if row.valid]),
            "mean_log_probability_kept": _mean(sure),
            "least_log_probability_kept": min(_known(sure), default=None),
        }
        for number, (labels, sure, ids) in enumerate(
            zip(rounds, kept, chosen, strict=True), start=FIRST_ROUND + 1
        )
    ]
    return Grown(chosen, facts)


def _sure(labels: Sequence[Label], keep: Keep | None, number: int) -> list[Label]:
    fit = [row for row in labels if row.valid]
    if keep is None:
        return fit
    unknown = [row.sample_id for row in fit if row.mean_log_probability is None]
    if unknown:
        raise DataError(
            f"{len(unknown)} answers of round {number} have no log-probability to sort them by,"
            f" the first that of sample {unknown[0]}",
            where="grow.keep",
            mend="use a labeller that gives log-probabilities, or set grow.keep to null",
        )
    surest = sorted(fit, key=lambda row: -_confidence(row))
    if keep.share is not None:
        surest = surest[: round(keep.share * len(fit))]
    least = keep.min_mean_log_probability
    sure = {row.sample_id for row in surest if least is None or _confidence(row) >= least}
    return [row for row in fit if row.sample_id in sure]


def _confidence(row: Label) -> float:
    """Of an answer without log-probabilities: below all others."""
    known = row.mean_log_probability
    return float("-inf") if known is None else known


def _known(rows: Sequence[Label]) -> list[float]:
    return [row.mean_log_probability for row in rows if row.mean_log_probability is not None]


def _mean(rows: Sequence[Label]) -> float | None:
    known = _known(rows)
    return fmean(known) if known else None
