"""What an arm costs to run, and what it saves against the teacher, from benchmark files only.

A gain is always written so that above 1 is better for the user: teacher ÷ arm where less is
better (time, memory, size), arm ÷ teacher where more is better (throughput).
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

HIGHER_IS_BETTER = ("decode_tokens_per_second", "throughput_samples_per_second")
HIGHER_IS_BETTER += ("throughput_tokens_per_second",)
WITHOUT_DIRECTION = ("new_tokens_mean", "runtime_memory_mib")
"""Conditions rather than costs: neither more nor less of them is better."""
SIZES = ("parameters", "disk_bytes")
CONDITIONS = ("precision", "runtime", "machine")
SAME = ("regime", "name", "unit", "memory_kind", "covers")
"""What has to be equal for two measurements to be of the same quantity."""
NATURAL, FIXED = "natural_length/batch_1", "fixed_length/batch_1"


def arm_cost(benchmarks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One arm's cost: the mean over its benchmarked models (seeds), with the widest spread seen."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for benchmark in benchmarks:
        for one in benchmark["measurements"]:
            found.setdefault((one["regime"], one["name"]), []).append(one)
    cost: dict[str, Any] = {
        "models": len(benchmarks),
        "measurements": [_mean(measured) for measured in found.values()],
    }
    for name in SIZES:
        known = [b[name] for b in benchmarks if b.get(name) is not None]
        cost[name] = fmean(known) if known else None
    for name in CONDITIONS:
        cost[name] = benchmarks[0].get(name)
    return cost


def measured(cost: dict[str, Any], regime: str, name: str) -> dict[str, Any] | None:
    """One measurement of an arm, or None where it was not taken."""
    for one in cost["measurements"]:
        if one["regime"] == regime and one["name"] == name and one["value"] is not None:
            return one
    return None


def latency(cost: dict[str, Any]) -> dict[str, Any] | None:
    """What a user waits for: p50 at batch 1 and natural length, else at fixed length."""
    return measured(cost, NATURAL, "latency_ms") or measured(cost, FIXED, "latency_ms")


def peak_memory(cost: dict[str, Any]) -> dict[str, Any] | None:
    """Peak memory at batch 1 and natural length, else in the first regime that has it."""
    first = measured(cost, NATURAL, "peak_memory_mib") or measured(cost, FIXED, "peak_memory_mib")
    if first:
        return first
    return next((m for m in cost["measurements"] if m["name"] == "peak_memory_mib"), None)


def own_memory(cost: dict[str, Any]) -> dict[str, Any] | None:
    """Of the peak, what is above the runtime without a model; None where that was not measured."""
    peak = peak_memory(cost)
    return measured(cost, peak["regime"], f"model_{peak['name']}") if peak else None


def answer_lengths(teacher: dict[str, Any], arm: dict[str, Any]) -> tuple[float, float] | None:
    """Mean new tokens of both in the natural-length regime."""
    found = [measured(cost, NATURAL, "new_tokens_mean") for cost in (teacher, arm)]
    if not found[0] or not found[1] or not found[1]["value"]:
        return None
    return found[0]["value"], found[1]["value"]


def mixed_conditions(teacher: dict[str, Any], arm: dict[str, Any]) -> list[str]:
    """In what the two were not measured alike; empty for a fair pair."""
    return [
        f"{name}: {_condition(teacher[name])} (teacher), {_condition(arm[name])} (here)"
        for name in CONDITIONS
        if teacher[name] != arm[name]
    ]


def gains(teacher: dict[str, Any], arm: dict[str, Any]) -> dict[str, Any]:
    """Compression, speed-ups and memory saving of an arm against the teacher."""
    return {
        **{name: _quotient(teacher[name], arm[name]) for name in SIZES},
        "latency": gain(latency(teacher), latency(arm)),
        "fixed_latency": gain(
            measured(teacher, FIXED, "latency_ms"), measured(arm, FIXED, "latency_ms")
        ),
        "memory": gain(peak_memory(teacher), peak_memory(arm)),
        "own_memory": gain(own_memory(teacher), own_memory(arm)),
        "measurements": [
            pair
            for one in arm["measurements"]
            if (pair := gain(measured(teacher, one["regime"], one["name"]), one))
        ],
        "mixed": mixed_conditions(teacher, arm),
    }


def gain(teacher: dict[str, Any] | None, arm: dict[str, Any] | None) -> dict[str, Any] | None:
    """One quantity of both with their ratio; None where it cannot be compared.

    Different regimes and different kinds of memory are never divided by one another.
    """
    if not teacher or not arm:
        return None
    if arm["name"] in WITHOUT_DIRECTION:
        return None
    if any(teacher.get(k) != arm.get(k) for k in SAME):
        return None
    more_is_better = arm["name"] in HIGHER_IS_BETTER
    above, below = (arm, teacher) if more_is_better else (teacher, arm)
    ratio = _quotient(above["value"], below["value"])
    if ratio is None:
        return None
    return {
        "regime": arm["regime"],
        "name": arm["name"],
        "unit": arm["unit"],
        "memory_kind": arm.get("memory_kind"),
        "teacher": teacher["value"],
        "arm": arm["value"],
        "gain": ratio,
        "spreads_overlap": _overlap(teacher, arm),
    }


def _mean(same: Sequence[dict[str, Any]]) -> dict[str, Any]:
    values = [one["value"] for one in same if one["value"] is not None]
    lows = [one["low"] for one in same if one.get("low") is not None]
    highs = [one["high"] for one in same if one.get("high") is not None]
    return {
        **same[0],
        "value": fmean(values) if values else None,
        "n": sum(one.get("n") or 0 for one in same),
        "low": min(lows, default=None),
        "high": max(highs, default=None),
    }


def _overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    bounds = [one.get("low"), one.get("high"), other.get("low"), other.get("high")]
    if None in bounds:
        return False
    return bounds[0] <= bounds[3] and bounds[2] <= bounds[1]


def _quotient(above: float | None, below: float | None) -> float | None:
    return above / below if above is not None and below else None


def _condition(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {item}" for key, item in value.items())
    return str(value)
