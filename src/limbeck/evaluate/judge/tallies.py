"""Rates of wins, ties and losses, and mean grades, with percentile bootstrap over samples.

A comparison is won when both orders name the same answer. Orders that disagree make it a tie and
are counted as inconsistent; a reply that cannot be read in either order makes it `unreadable`, a
share of its own. So win + tie + loss + unreadable = 1, over all judged samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from limbeck.evaluate.bootstrap import interval
from limbeck.evaluate.judge.replies import Verdict
from limbeck.metrics import Array

Outcome = Literal["win", "tie", "loss", "unreadable"]
COLUMNS: tuple[Outcome, ...] = ("win", "tie", "loss", "unreadable")


@dataclass(frozen=True)
class Compared:
    """Two answers after both orders, from the first one's side.

    `alike` marks answers that are the same to the letter and were not asked about; `orders` are the
    verdicts, of the order that shows the first answer first and of the other.
    """

    orders: tuple[Verdict | None, Verdict | None] = ("TIE", "TIE")
    alike: bool = False

    @property
    def outcome(self) -> Outcome:
        """What counts."""
        if None in self.orders:
            return "unreadable"
        return {("A", "B"): "win", ("B", "A"): "loss"}.get(self.orders, "tie")  # type: ignore[return-value, call-overload]

    @property
    def consistent(self) -> bool:
        """Whether both orders, where they can be read, say the same of the answers."""
        return self.orders in (("A", "B"), ("B", "A"), ("TIE", "TIE"))


def pair_rates(
    by_seed: Sequence[Sequence[Compared]], *, resamples: int, confidence: float, seed: int
) -> dict[str, Any]:
    """Rates of one pair of arms, each with its interval; a sample's value is its mean over seeds.

    Args:
        by_seed: for each pair of models the comparisons of all samples, in the same order.
        resamples: of the bootstrap.
        confidence: of the intervals.
        seed: of the resamples.
    """
    flags = np.asarray(
        [
            [
                [one.outcome == name for name in COLUMNS]
                + [
                    one.outcome != "unreadable" and not one.alike,
                    one.outcome != "unreadable" and not one.alike and not one.consistent,
                ]
                for one in own
            ]
            for own in by_seed
        ],
        dtype=np.float64,
    )
    rows_nd = flags.mean(axis=0)
    sums_Rd = resampled_sums(rows_nd, resamples, seed)
    n, totals = len(rows_nd), rows_nd.sum(axis=0)

    def rate(values: Array, whole: float) -> dict[str, float]:
        low, high = interval(whole, values, confidence)
        return {"value": whole, "low": low, "high": high}

    found: dict[str, Any] = {
        name: rate(sums_Rd[:, place] / n, totals[place] / n) for place, name in enumerate(COLUMNS)
    }
    found["net"] = rate((sums_Rd[:, 0] - sums_Rd[:, 2]) / n, (totals[0] - totals[2]) / n)
    asked = int(flags[..., 4].sum())
    inconsistent: dict[str, Any] | None = None
    if asked:
        shares = sums_Rd[:, 5] / np.maximum(sums_Rd[:, 4], 1e-12)
        inconsistent = rate(shares[sums_Rd[:, 4] > 0], totals[5] / totals[4]) | {"n": asked}
    verdicts = [one for own in by_seed for c in own if not c.alike for one in c.orders]
    named = [one for one in verdicts if one in ("A", "B")]
    return {
        "n": n,
        **found,
        "inconsistent": inconsistent,
        "shown_first": {"value": _share(one == "A" for one in named), "n": len(named)},
        "alike": sum(one.alike for own in by_seed for one in own) / len(by_seed) / n,
    }


def mean_grades(
    by_seed: Sequence[Sequence[int | None]],
    scale: int,
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """The mean grade of one arm over samples of which a grade could be read.

    Unreadable grades have no value; `if_lowest` and `if_highest` are the mean with 1 and with
    `scale` in their place.
    """
    grades_sn = np.asarray(by_seed, dtype=np.float64)  # None becomes NaN
    readable_n = ~np.isnan(grades_sn).all(axis=0)
    found: dict[str, Any] = {
        "n": int(readable_n.sum()),
        "if_lowest": float(np.nan_to_num(grades_sn, nan=1.0).mean()),
        "if_highest": float(np.nan_to_num(grades_sn, nan=float(scale)).mean()),
    }
    if not readable_n.any():
        return {"value": None, "low": None, "high": None, **found}
    means_n = np.nanmean(grades_sn[:, readable_n], axis=0)
    return {**_mean(means_n, resamples, confidence, seed), **found}


def grade_difference(
    pairs: Sequence[tuple[Sequence[int | None], Sequence[int | None]]],
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """a - b, paired by sample and by seed, where both grades could be read."""
    apart_sn = np.asarray([a for a, _ in pairs], dtype=np.float64) - np.asarray(
        [b for _, b in pairs], dtype=np.float64
    )
    readable_n = ~np.isnan(apart_sn).all(axis=0)
    if not readable_n.any():
        return {"value": None, "low": None, "high": None, "n": 0}
    means_n = np.nanmean(apart_sn[:, readable_n], axis=0)
    return {**_mean(means_n, resamples, confidence, seed), "n": int(readable_n.sum())}


def resampled_sums(rows_nd: Array, resamples: int, seed: int) -> Array:
    """Sums [R, d] over n of n rows drawn with replacement."""
    generator, n = np.random.default_rng(seed), len(rows_nd)
    return np.stack(
        [rows_nd[generator.integers(0, n, size=n)].sum(axis=0) for _ in range(resamples)]
    )


def unreadable_by_model(
    about: Iterable[tuple[Mapping[str, Any], bool]],
) -> dict[str, dict[str, int]]:
    """For each model: how many replies were about its answers, and how many could not be read."""
    found: dict[str, dict[str, int]] = {}
    for what, readable in about:
        for model in (what[key] for key in ("a", "b", "model") if key in what):
            own = found.setdefault(model, {"replies": 0, "unreadable": 0})
            own["replies"] += 1
            own["unreadable"] += not readable
    return found


def _mean(values_n: Array, resamples: int, confidence: float, seed: int) -> dict[str, float]:
    value = float(values_n.mean())
    drawn = resampled_sums(values_n[:, None], resamples, seed)[:, 0] / len(values_n)
    low, high = interval(value, drawn, confidence)
    return {"value": value, "low": low, "high": high}


def _share(flags: Iterable[bool]) -> float | None:
    listed = list(flags)
    return sum(listed) / len(listed) if listed else None
