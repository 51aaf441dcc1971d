"""Which models no other beats in quality, latency and memory at once; over one run or several.

Models are compared only where they were measured alike: on the same data and the same part of it,
by the same metric, on the same machine and device, in the same regimes and with the same kind of
memory. A model beats another where it is no worse in any of the three and clearly better in one:
by more than the intervals of both scores, or by more than `CLEARLY` of a cost. Noise alone, then,
throws no model out.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.report import cost as costs_of
from limbeck.report.verdict import headline_metric

CLEARLY = 0.05
"""A cost that is lower by less than this share is about the same."""


@dataclass(frozen=True)
class Candidate:
    """One model of a run: its score with the interval, and what it costs.

    `like` is equal for models that may be compared; `higher_is_better` is the metric's.
    """

    run: str
    arm: str
    metric: str
    higher_is_better: bool
    quality: float
    quality_low: float
    quality_high: float
    latency_ms: float
    memory_mib: float
    like: str

    def beats(self, other: Candidate) -> bool:
        """Whether nobody would choose the other for any of the three."""
        if self.like != other.like:
            return False
        sign = 1 if self.higher_is_better else -1
        if sign * self.quality < sign * other.quality:
            return False
        if self.latency_ms > other.latency_ms or self.memory_mib > other.memory_mib:
            return False
        ends = (self.quality_low, other.quality_high)
        clear = ends[0] > ends[1] if sign > 0 else self.quality_high < other.quality_low
        cheaper = (
            self.latency_ms < other.latency_ms * (1 - CLEARLY),
            self.memory_mib < other.memory_mib * (1 - CLEARLY),
        )
        return clear or any(cheaper)


def candidates_of(
    results: Mapping[str, Any],
    *,
    metric: str | None = None,
    costs: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Candidate]:
    """The models of a run's results whose quality, latency and memory were all measured.

    Args:
        results: the content of a results.json.
        metric: by which quality is judged; default: the run's headline.
        costs: arm -> cost, where an arm's is known from another of the same size; default: as
            measured.
    """
    scores = results["evaluation"]
    judged = headline_metric(scores, metric or results.get("headline"))
    found: list[Candidate] = []
    for row in scores["arms"] if judged else ():
        score = row["scores"].get(judged["kind"])
        cost = (results["costs"] if costs is None else costs).get(row["arm"])
        latency, memory = (
            f(dict(cost)) if cost else None for f in (costs_of.latency, costs_of.peak_memory)
        )
        if not score or None in (score["mean"], score["low"], score["high"]):
            continue
        if cost is None or latency is None or memory is None:
            continue
        like = {
            **_data_of(results),
            "metric": [judged["kind"], judged.get("signature")],
            "machine": cost.get("machine"),
            "regimes": [latency["regime"], memory["regime"], memory.get("memory_kind")],
        }
        found.append(
            Candidate(
                results["name"],
                row["arm"],
                judged["kind"],
                judged["higher_is_better"],
                score["mean"],
                score["low"],
                score["high"],
                latency["value"],
                memory["value"],
                json.dumps(like, sort_keys=True),
            )
        )
    return found


def unbeaten(candidates: Sequence[Candidate]) -> list[bool]:
    """For each, whether no other that may be compared with it beats it: the Pareto set."""
    return [not any(other.beats(one) for other in candidates) for one in candidates]


def comparable(candidates: Iterable[Candidate]) -> list[list[Candidate]]:
    """The candidates in groups that may be compared, in order of first appearance."""
    groups: dict[str, list[Candidate]] = {}
    for one in candidates:
        groups.setdefault(one.like, []).append(one)
    return list(groups.values())


def pareto_over_runs(
    runs: Iterable[Mapping[str, Any]], *, metric: str | None = None
) -> list[list[tuple[Candidate, bool]]]:
    """Groups of comparable models over several runs, each with whether no other beats it.

    A model that is in several runs (the same teacher, say) stands in each. A run that does not have
    the metric is left out.

    Args:
        runs: contents of results.json files.
        metric: by which all are judged; default: each run's own headline.
    """
    known = [
        run
        for run in runs
        if metric is None or metric in {one["kind"] for one in run["evaluation"]["metrics"]}
    ]
    groups = comparable(one for run in known for one in candidates_of(run, metric=metric))
    return [list(zip(group, unbeaten(group), strict=True)) for group in groups]


def _data_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """What identifies the evaluated samples: the first data stage is the one evaluated on."""
    stages = (stage["fingerprint"] for stage in results["stages"] if stage["kind"] == "data")
    asked = (results.get("recipe") or {}).get("evaluate") or {}
    return {
        "data": next(stages, None),
        "samples": results["evaluation"]["n"],
        "asked": [asked.get("split"), asked.get("limit")],
    }
