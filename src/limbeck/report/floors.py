"""Floors: what the arms score without looking, and whether they beat that. Pure functions.

A model that does not beat itself with blanked pictures is not looking at them; a teacher that does
not beat its floors (also the most frequent answer, and that of the nearest training picture) is not
worth distilling.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.recipe.recipe import BLANKED, MOST_FREQUENT, NEAREST_NEIGHBOUR, UNTRAINED
from limbeck.report.format import decimal, interval, percent, score_decimals
from limbeck.report.verdict import arm_scores, difference, outcome

SHARE_RIGHT = "exact_match"
"""The metric whose value is a share of right answers, and is said so."""

COPIED = {
    MOST_FREQUENT: "The most frequent answer in training",
    NEAREST_NEIGHBOUR: "The answer of the nearest training picture",
}
"""Floors that no model answers, as a sentence names them."""
NOT_WORTH_IT = "such a teacher is not worth distilling"


def floors(scores: Mapping[str, Any], metric: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """Each arm against its floors on one metric: both scores, the paired difference, a sentence.

    Args:
        scores: the content of scores.json.
        metric: the headline metric, None where nothing was scored.
    """
    if metric is None:
        return []
    arms = [arm["arm"] for arm in scores["arms"]]
    pairs = [(arm, arm + BLANKED) for arm in arms if arm + BLANKED in arms]
    for floor in COPIED:
        if floor in arms:
            pairs += [(arm, floor) for arm in arms if _may_beat(arm)]
    found = [_against(scores, metric, arm, floor) for arm, floor in pairs]
    return [row for row in found if row is not None]


def floor_warnings(rows: list[dict[str, Any]]) -> list[str]:
    """The floors that an arm does not beat; of the baseline, which knows nothing, none is said."""
    return [
        row["sentence"] for row in rows if row["outcome"] != "better" and row["arm"] != "baseline"
    ]


def _may_beat(arm: str) -> bool:
    return not arm.endswith(BLANKED) and (arm == "teacher" or arm not in UNTRAINED)


def _against(
    scores: Mapping[str, Any], metric: Mapping[str, Any], arm: str, floor: str
) -> dict[str, Any] | None:
    kind = metric["kind"]
    seen, unseen = (arm_scores(scores, name, kind) for name in (arm, floor))
    apart = difference(scores, kind, arm, floor)
    if seen is None or unseen is None or apart is None:
        return None
    judged, why = outcome(apart, metric["higher_is_better"])
    values = [seen["mean"], unseen["mean"]]
    digits = score_decimals([apart["low"], apart["high"]])
    gap = f"{decimal(apart['mean'], digits, signed=True)} " + interval(
        apart["low"], apart["high"], digits
    )
    return {
        "arm": arm,
        "floor": floor,
        "metric": kind,
        "value": values[0],
        "floor_value": values[1],
        "difference": {key: apart[key] for key in ("mean", "low", "high", "n")},
        "outcome": judged,
        "why": why,
        "sentence": f"{_facts(metric, arm, floor, values)}: {_meaning(arm, floor, judged)} "
        f"(difference {gap}).",
    }


def _facts(metric: Mapping[str, Any], arm: str, floor: str, values: list[float]) -> str:
    shares = metric["kind"] == SHARE_RIGHT
    digits = score_decimals(values)
    own, low = (percent(v) if shares else decimal(v, digits) for v in values)
    of = "" if shares else f" in {metric['name']}"
    if floor in COPIED:
        verb = "is right in" if shares else "scores"
        return f"{COPIED[floor]} {verb} {low}{of}, the {arm} {own}"
    verb, right = ("answers", " right") if shares else ("scores", "")
    return f"With blanked pictures the {arm} {verb} {low}{right}{of} against {own} with them"


def _meaning(arm: str, floor: str, judged: str) -> str:
    if floor in COPIED:
        better, rest = f"the {arm} beats it", f"the {arm} does not beat it"
    else:
        better, rest = "it looks at the pictures", "nothing shows that it looks at the pictures"
    if arm == "teacher":
        rest += " and is not worth distilling" if floor in COPIED else f": {NOT_WORTH_IT}"
    return better if judged == "better" else rest
