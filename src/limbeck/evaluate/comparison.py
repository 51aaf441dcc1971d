"""Arms and their differences, from scored models.

The value of an arm is the mean over its seeds of the metric. Its interval comes from resampling
samples, the same ones for all seeds; the spread over seeds (standard deviation) is a number apart.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from limbeck.metrics import Array, Metric, MetricResult

Arms = dict[str, dict[int | None, str]]
"""Arm -> seed -> model id."""

Bounds = Callable[[float, Array], tuple[float, float]]


@dataclass(frozen=True)
class Scored:
    """One metric of all models: on which samples, its results, and the values of all resamples."""

    metric: Metric
    kept: list[int]
    results: dict[str, MetricResult]
    resampled: dict[str, Array]


Resample = Callable[[Metric, Sequence[Array], int], list[Array]]
"""A metric's value on every resample, for each model's statistics; the number chooses the draws."""


def restricted(one: Scored, inside: Sequence[int], resample: Resample, draws: int) -> Scored:
    """The same metric on some of its samples: those at the places `inside` of `one.kept`.

    Nothing is read again, so that document frequencies (CIDEr-D) stay those of the whole set.
    """
    places = list(inside)
    rows_nd = {name: result.statistics_nd[places] for name, result in one.results.items()}
    results = {
        name: MetricResult(
            float(one.metric.aggregate(rows.sum(axis=0), len(places))),
            [one.results[name].per_sample[place] for place in places],
            rows,
            {},
        )
        for name, rows in rows_nd.items()
    }
    drawn = resample(one.metric, list(rows_nd.values()), draws)
    kept = [one.kept[place] for place in places]
    return Scored(one.metric, kept, results, dict(zip(results, drawn, strict=True)))


def arm_rows(arms: Arms, scored: Sequence[Scored], bounds: Bounds) -> list[dict[str, Any]]:
    """For each arm the mean over seeds, its interval, and the spread over seeds."""
    rows: list[dict[str, Any]] = []
    for arm, models in arms.items():
        scores: dict[str, Any] = {}
        for one in scored:
            if not one.results:
                continue
            values = [one.results[name].value for name in models.values()]
            mean = float(np.mean(values))
            low, high = bounds(mean, mean_of([one.resampled[name] for name in models.values()]))
            scores[one.metric.key] = {
                "mean": mean,
                "sd": float(np.std(values, ddof=1)) if len(values) > 1 else None,
                "low": low,
                "high": high,
                "n": len(one.kept),
                "per_seed": values,
            }
        rows.append({"arm": arm, "seeds": list(models), "scores": scores})
    return rows


def difference_rows(
    arms: Arms,
    scored: Sequence[Scored],
    bounds: Bounds,
    wanted: Callable[[str, str], bool] = lambda a, b: True,
) -> list[dict[str, Any]]:
    """a - b for every wanted pair of arms and every metric, paired by sample and by seed."""
    rows: list[dict[str, Any]] = []
    for one in scored:
        if not one.results:
            continue
        for a, b in (pair for pair in combinations(arms, 2) if wanted(*pair)):
            pairs = seed_pairs(arms[a], arms[b])
            seeds: list[dict[str, Any]] = []
            for seed, ours, theirs in pairs:
                value = one.results[ours].value - one.results[theirs].value
                low, high = bounds(value, one.resampled[ours] - one.resampled[theirs])
                seeds.append({"seed": seed, "value": value, "low": low, "high": high})
            if pairs:
                left, right = [p[1] for p in pairs], [p[2] for p in pairs]
            else:
                left, right = list(arms[a].values()), list(arms[b].values())
            mean = float(
                np.mean([one.results[name].value for name in left])
                - np.mean([one.results[name].value for name in right])
            )
            resampled = mean_of([one.resampled[name] for name in left]) - mean_of(
                [one.resampled[name] for name in right]
            )
            low, high = bounds(mean, resampled)
            rows.append(
                {
                    "metric": one.metric.key,
                    "a": a,
                    "b": b,
                    "mean": mean,
                    "low": low,
                    "high": high,
                    "n": len(one.kept),
                    "per_seed": seeds,
                }
            )
    return rows


def seed_pairs(
    ours: dict[int | None, str], theirs: dict[int | None, str]
) -> list[tuple[int | None, str, str]]:
    """Models to compare: of the same seed; an arm without a seed is compared with each.

    Empty when both arms have seeds and none in common: then only the means are compared.
    """
    if list(ours) == [None]:
        return [(seed, ours[None], name) for seed, name in theirs.items()]
    if list(theirs) == [None]:
        return [(seed, name, theirs[None]) for seed, name in ours.items()]
    return [(seed, name, theirs[seed]) for seed, name in ours.items() if seed in theirs]


def mean_of(values: Sequence[Array]) -> Array:
    """The mean over models of what each has on every resample."""
    return np.mean(np.stack(values), axis=0)
