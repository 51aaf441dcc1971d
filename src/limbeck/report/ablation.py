"""An ablation's results: its points beside the base, the effects of its axes, and what they say.

Assembled from the evaluation's scores, differences and effects, and from the benchmarks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from limbeck.recipe.design import STUDENT, Design, Placed
from limbeck.report import cost as costs_of
from limbeck.report.ablation_words import (
    Words,
    axis_sentence,
    comparisons_warning,
    control_sentences,
    knobs_sentence,
    list_sentences,
)
from limbeck.report.format import decimal
from limbeck.report.pareto import candidates_of, unbeaten
from limbeck.report.seeds import half_width
from limbeck.report.verdict import difference, headline_metric, outcome

Scores = Mapping[str, Any]


def ablation_of(design: Design, results: Mapping[str, Any]) -> dict[str, Any]:
    """What the report shows of an ablation.

    Args:
        design: the axes and points.
        results: `evaluation`, `costs` and `headline` as the report has them.
    """
    scores = results["evaluation"]
    effects = [_judged(row, scores) for row in scores.get("effects", [])]
    points = [_point(one, scores, results["costs"]) for one in design.points]
    _mark_unbeaten(points, results)
    found: dict[str, Any] = {
        "one_at_a_time": design.one_at_a_time,
        "controls": design.controls,
        "axes": [asdict(axis) for axis in design.axes],
        "points": points,
        "effects": effects,
        "sentences": [],
        "warnings": [],
    }
    metric = headline_metric(scores, results["headline"])
    if metric is not None:
        words = Words.of(scores, metric)
        found["sentences"] = _sentences(design, points, effects, words)
        found["warnings"] = _warnings(design, points, effects, words)
    return found


def _sentences(
    design: Design, points: Sequence[Any], effects: Sequence[Any], words: Words
) -> list[str]:
    own = {row["axis"]: row for row in effects if row["metric"] == words.metric["kind"]}
    grid = [axis for axis in design.axes if not axis.listed]
    found: list[str] = []
    if grid:
        found.append(knobs_sentence(grid, own, words))
        found += [axis_sentence(axis, own.get(axis.path), words) for axis in grid]
    if len(grid) < len(design.axes):
        found += list_sentences([p for p in points if p["listed"]], words)
    return [*found, *control_sentences(points, words)]


def _warnings(
    design: Design, points: Sequence[Any], effects: Sequence[Any], words: Words
) -> list[str]:
    own = [row for row in effects if row["metric"] == words.metric["kind"]]
    number = len(own) + sum(p["difference"] is not None for p in points)
    number += sum(p["control_difference"] is not None for p in points)
    found = comparisons_warning(number, words)
    found += [_turned(row, effects, design, words) for row in own]
    if unknown := [p["name"] for p in points[1:] if p["control"] is None]:
        found.append(
            f"at {len(unknown)} of {len(points) - 1} points plain cross-entropy would see other "
            "data, labels or training than the control: whether distillation helps there was not "
            "measured (ablate.controls: true trains it)"
        )
    return [text for text in found if text]


def _turned(row: Any, effects: Sequence[Any], design: Design, words: Words) -> str:
    """Metrics by which an axis' levels are ranked the other way, beyond the noise."""
    axis = next(axis for axis in design.axes if axis.path == row["axis"])
    others = [
        one["metric"]
        for one in effects
        if one["axis"] == row["axis"]
        and one["outcome"] == "moved"
        and (one["best"], one["worst"]) == (row["worst"], row["best"])
    ]
    if row["outcome"] != "moved" or not others:
        return ""
    return (
        f"the effect of {axis.path} depends on the metric: by {words.metric['name']} "
        f"{axis.levels[row['best']]} is best, by {', '.join(others)} it is worst"
    )


def _point(one: Placed, scores: Scores, costs: Mapping[str, Any]) -> dict[str, Any]:
    arm = next((row for row in scores["arms"] if row["arm"] == one.arm), None)
    cost_of = one.arm if one.arm in costs else STUDENT if one.as_base else None
    cost = costs.get(cost_of or "")
    latency, memory = (f(cost) if cost else None for f in (costs_of.latency, costs_of.peak_memory))
    base = one.arm == STUDENT
    return {
        "name": one.name,
        "arm": one.arm,
        "base": base,
        "listed": any(axis == "arm" for axis in one.levels),
        "control": one.control,
        "changes": list(one.changes),
        "values": dict(one.texts),
        "levels": dict(one.levels),
        "scores": arm["scores"] if arm else {},
        "difference": None if base else _differences(scores, one.arm, STUDENT),
        "control_difference": _differences(scores, one.arm, one.control),
        "cost_of": cost_of if cost else None,
        "latency": latency,
        "memory": memory,
        "unbeaten": None,
    }


def _differences(scores: Scores, arm: str, other: str | None) -> dict[str, Any] | None:
    """Metric -> paired difference to another arm, with what may be concluded."""
    found: dict[str, Any] = {}
    for metric in scores["metrics"] if other else ():
        row = difference(scores, metric["kind"], arm, str(other))
        if row is not None:
            judged, why = outcome(row, metric["higher_is_better"])
            found[metric["kind"]] = {**row, "outcome": judged, "why": why}
    return found or None


def _mark_unbeaten(points: Sequence[dict[str, Any]], results: Mapping[str, Any]) -> None:
    """Which points no other beats, of those whose cost is known."""
    known = results["costs"]
    costs = {p["arm"]: known[p["cost_of"]] for p in points if p["cost_of"]}
    candidates = candidates_of(results, costs=costs)
    marks = dict(zip((one.arm for one in candidates), unbeaten(candidates), strict=True))
    for point in points:
        point["unbeaten"] = marks.get(point["arm"])


def _judged(row: Mapping[str, Any], scores: Scores) -> dict[str, Any]:
    """An effect with its outcome: `moved`, `none` (that we can tell) or `equal`; and why."""
    found, confidence = row["difference"], scores["confidence"]
    values = [one["value"] for one in found["per_seed"]]
    levels = len(row["levels"])
    made = {**row, "half_over_seeds": None}
    if not any(values) and found["mean"] == 0:
        return {**made, "outcome": "equal", "why": "all levels score the same with every seed"}
    if len(values) < 2:
        why = "with one seed, chance between training runs is unknown"
        return {**made, "outcome": "none", "why": why}
    # The best and the worst level were chosen after looking: any pair might have been.
    half = half_width(values, confidence=confidence, comparisons=levels * (levels - 1) // 2)
    made["half_over_seeds"] = half
    agreeing = sum(value * found["mean"] > 0 for value in values)
    if found["low"] <= 0 <= found["high"]:
        return {**made, "outcome": "none", "why": "the interval over samples includes 0"}
    if agreeing < len(values):
        return {**made, "outcome": "none", "why": f"only {agreeing} of {len(values)} seeds agree"}
    if abs(fmean(values)) <= half:
        why = (
            f"chance between training runs is as large: over {len(values)} seeds it is known to "
            f"± {decimal(half)}"
        )
        return {**made, "outcome": "none", "why": why}
    every = "both seeds" if len(values) == 2 else f"all {len(values)} seeds"
    return {**made, "outcome": "moved", "why": f"{every} agree, ± {decimal(half)} over seeds"}
