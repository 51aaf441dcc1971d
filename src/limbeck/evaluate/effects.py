"""Main effects of an ablation's axes: what a level scores, averaged over the other axes.

The level that scores best and the one that scores worst are chosen after looking, so the interval
of their difference holds for all pairs of levels at once: its half width is a quantile of the
largest difference between the levels' errors over the resamples (a bootstrap of the range, as
Tukey's for means). All levels are resampled on the same samples, and compared on the same seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from limbeck.evaluate.comparison import Arms, Bounds, Scored
from limbeck.metrics import Array


@dataclass(frozen=True)
class Factor:
    """An axis: for each level its arms, one for every combination of the other axes."""

    axis: str
    levels: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Ablation:
    """What an evaluation has to know of an ablation.

    Attributes:
        factors: axes of grids, whose effects are wanted.
        apart: arms of points; two of them are not compared as a pair, or there were too many,
        pairs: but for these.
    """

    factors: tuple[Factor, ...]
    apart: frozenset[str]
    pairs: frozenset[frozenset[str]]

    def compares(self, a: str, b: str) -> bool:
        """Whether the difference of two arms is wanted."""
        return not {a, b} <= self.apart or frozenset((a, b)) in self.pairs


def effect_rows(
    arms: Arms,
    scored: Sequence[Scored],
    factors: Sequence[Factor],
    bounds: Bounds,
    confidence: float,
) -> list[dict[str, Any]]:
    """For each axis and metric: its levels with intervals, and best − worst as one row."""
    rows: list[dict[str, Any]] = []
    for factor in factors:
        seeds = [
            seed
            for seed in arms[factor.levels[0][0]]
            if all(seed in arms[name] for level in factor.levels for name in level)
        ]
        for one in scored:
            if not one.results or not seeds:
                continue
            values_ls = np.asarray(
                [
                    [np.mean([one.results[arms[a][seed]].value for a in level]) for seed in seeds]
                    for level in factor.levels
                ]
            )
            resampled_lr = np.stack(
                [
                    np.mean([one.resampled[arms[a][seed]] for a in level for seed in seeds], axis=0)
                    for level in factor.levels
                ]
            )
            row = _effect(values_ls, resampled_lr, seeds, one, bounds, confidence)
            for level, names in zip(row["levels"], factor.levels, strict=True):
                level["arms"] = list(names)
            rows.append({"axis": factor.axis, "metric": one.metric.key, **row})
    return rows


def _effect(
    values_ls: Array,
    resampled_lr: Array,
    seeds: Sequence[int | None],
    one: Scored,
    bounds: Bounds,
    confidence: float,
) -> dict[str, Any]:
    means_l = values_ls.mean(axis=1)
    ranked = np.argsort(means_l if one.metric.higher_is_better else -means_l, kind="stable")
    worst, best = int(ranked[0]), int(ranked[-1])
    levels: list[dict[str, Any]] = []
    for values_s, mean, resampled_r in zip(values_ls, means_l, resampled_lr, strict=True):
        low, high = bounds(float(mean), resampled_r)
        own = {"mean": float(mean), "low": low, "high": high}
        levels.append({**own, "per_seed": values_s.tolist()})
    errors_lr = resampled_lr - means_l[:, None]
    half = float(np.quantile(errors_lr.max(axis=0) - errors_lr.min(axis=0), confidence))
    mean = float(means_l[best] - means_l[worst])
    own_s = values_ls[best] - values_ls[worst]
    return {
        "n": len(one.kept),
        "levels": levels,
        "best": best,
        "worst": worst,
        "difference": {
            "mean": mean,
            "low": mean - half,
            "high": mean + half,
            "per_seed": [
                {"seed": seed, "value": float(value)}
                for seed, value in zip(seeds, own_s, strict=True)
            ],
        },
    }
