"""The judge on pairs of which the better answer is known, before its verdicts are believed.

Accuracies have Wilson score intervals (Wilson 1927). Whether the judge beats chance is an exact
one-sided sign test on `other`: of the pairs that it decides, as many for the gold answer as no
coin would give. A judge that always names the first answer decides nothing, as the two orders of a
pair contradict each other. Passing is needed, and proves little: the wrong answers are far off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any

DECISIVE = "other"
"""The kind of known pair that decides whether the judge is of use."""

EXPECTED = {"other": "win", "empty": "win", "plea": "win", "identical": "tie"}


def trial(outcomes: Mapping[str, Sequence[str]], confidence: float) -> dict[str, Any]:
    """How a judge did.

    Args:
        outcomes: kind of known pair -> what came out, from the gold answer's side: "win", "tie",
            "loss" or "unreadable".
        confidence: of the intervals; the sign test is at (1 - confidence) / 2.

    Returns:
        `{"kinds": [...], "sign_test": {"right", "decided", "p"}, "usable", "why"}`
    """
    kinds = [
        {"kind": kind, "expected": expected, **_accuracy(found, expected, confidence)}
        for kind, expected in EXPECTED.items()
        if (found := outcomes.get(kind))
    ]
    decisive = outcomes.get(DECISIVE, ())
    right = sum(one == "win" for one in decisive)
    decided = right + sum(one == "loss" for one in decisive)
    p = sign_test(right, decided)
    usable = p <= (1 - confidence) / 2
    why = (
        f"of {len(decisive)} known pairs it decided {decided}, {right} of them rightly"
        f" (sign test, p = {p:.2g})"
    )
    if not decisive:
        why = "it was not tried, as calibration is 0 or no gold answer differs from another's"
    return {
        "kinds": kinds,
        "sign_test": {"right": right, "decided": decided, "n": len(decisive), "p": p},
        "usable": usable,
        "why": why,
    }


def sign_test(right: int, decided: int) -> float:
    """Chance that a fair coin is right at least so often."""
    return sum(math.comb(decided, k) for k in range(right, decided + 1)) / 2**decided


def wilson(right: int, n: int, confidence: float) -> tuple[float, float]:
    """Score interval of a share."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, spread = right / n, z * z / n
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def _accuracy(found: Sequence[str], expected: str, confidence: float) -> dict[str, Any]:
    right = sum(one == expected for one in found)
    low, high = wilson(right, len(found), confidence)
    return {
        "n": len(found),
        "accuracy": right / len(found),
        "low": low,
        "high": high,
        **{name: sum(one == name for one in found) for name in ("win", "tie", "loss")},
        "unreadable": sum(one == "unreadable" for one in found),
    }
