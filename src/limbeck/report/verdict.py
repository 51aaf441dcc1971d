"""The verdict: one sentence with its uncertainty, and the claims it is made of. Pure functions.

A difference counts only when the interval of the paired difference excludes 0 and every seed has
the same sign; between two trained arms, which chance in training moves apart, the interval over
seeds has to exclude 0 as well. Everything else is "no difference we can tell", and what was not
measured is said to be so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import fmean, stdev
from typing import Any, Literal

from limbeck.errors import UsageError
from limbeck.recipe.recipe import UNTRAINED, sighted
from limbeck.report import cost as costs_of
from limbeck.report.format import (
    condition,
    count,
    decimal,
    interval,
    percent,
    quantity,
    score_decimals,
    times,
)

Outcome = Literal["better", "worse", "tie", "not_measured"]

T_QUANTILES = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t at 97.5 % for 1 to 10 degrees of freedom; the last serves for more."""

NEAR_ONE = 0.05
"""Costs within this share of one another are called about the same."""

FIRST_ROUND = "student_round1"
"""The arm that shows whether growing the training data helped, where it is evaluated."""

SIMILAR_LENGTH = 0.1
"""Answers whose lengths differ by more than this share make latency partly a matter of length."""


@dataclass(frozen=True)
class Claim:
    """One comparison: what was found, as a clause for the sentence and as a full statement."""

    key: str
    outcome: Outcome
    clause: str
    statement: str
    why: str = ""


@dataclass(frozen=True)
class Verdict:
    """The sentence, and the claims in the order in which it makes them."""

    sentence: str
    metric: str | None
    claims: tuple[Claim, ...]

    def as_dict(self) -> dict[str, Any]:
        """For results.json."""
        return asdict(self)


def verdict(
    scores: Mapping[str, Any],
    *,
    headline: str | None = None,
    costs: Mapping[str, Mapping[str, Any]] | None = None,
    steps: Mapping[str, Sequence[int]] | None = None,
    served_teacher: bool = False,
) -> Verdict:
    """Judge the arm called `student`.

    Args:
        scores: the content of scores.json.
        headline: kind of the metric to judge by; default: the first.
        costs: arm -> its cost (see `limbeck.report.cost`).
        steps: arm -> optimiser steps of each of its trained models, to check "equal steps".
        served_teacher: the teacher runs on a server, where it cannot be timed.
    """
    metric = headline_metric(scores, headline)
    if metric is None or "student" not in {arm["arm"] for arm in scores["arms"]}:
        return Verdict("No student was evaluated, so there is nothing to judge.", None, ())
    claims = (
        _quality(scores, metric),
        *_savings(costs or {}, served_teacher),
        _against(scores, metric, "baseline", "its untrained self"),
        _against_control(scores, metric, steps or {}),
    )
    quality, *cost_claims, baseline, control = claims
    growth: tuple[Claim, ...] = ()
    if FIRST_ROUND in {arm["arm"] for arm in scores["arms"]}:
        growth = (_against(scores, metric, FIRST_ROUND, "its first round, before its data grew"),)
    parts = [quality.clause]
    known = [c.clause for c in cost_claims if c.outcome != "not_measured"]
    nothing = "its cost was not measured"
    if served_teacher:
        nothing = "its cost was not compared, since the teacher is served"
    parts.append(f"with {_listed(known)}" if known else nothing)
    clauses = [one.clause for one in (baseline, control, *growth)]
    sentence = f"{'; '.join([', '.join(parts), *clauses])}; {_basis(scores)}."
    return Verdict(sentence, metric["kind"], (*claims, *growth))


def headline_metric(scores: Mapping[str, Any], headline: str | None) -> dict[str, Any] | None:
    """The metric of the verdict: the recipe's, else the first; None where nothing was scored.

    Raises:
        UsageError: the recipe's headline is not among the scored metrics.
    """
    metrics = scores["metrics"]
    wanted = [m for m in metrics if headline in (None, m["kind"])]
    if metrics and not wanted:
        raise UsageError(
            f"{headline!r} was not scored",
            where="report.headline",
            mend=f"scored metrics: {', '.join(m['kind'] for m in metrics)}",
        )
    return wanted[0] if wanted else None


def difference(scores: Mapping[str, Any], kind: str, a: str, b: str) -> dict[str, Any] | None:
    """The paired difference a − b on a metric, turned round where the file holds b − a."""
    for one in scores["differences"]:
        if one["metric"] == kind and (one["a"], one["b"]) == (a, b):
            return dict(one)
        if one["metric"] == kind and (one["a"], one["b"]) == (b, a):
            return {**one, **_negated(one), "a": a, "b": b, "per_seed": _negated_seeds(one)}
    return None


def outcome(found: Mapping[str, Any] | None, higher_is_better: bool) -> tuple[Outcome, str]:
    """Whether a is better than b, and why it was decided so."""
    if found is None or None in (found["mean"], found["low"], found["high"]):
        return "not_measured", "there is no paired difference for this pair"
    if found["low"] <= 0 <= found["high"]:
        return "tie", "the interval of the difference includes 0"
    above = found["low"] > 0
    seeds = found.get("per_seed") or []
    if not seeds:
        return "tie", "the two share no seed, so that chance in training is not told apart"
    agreeing = [
        s for s in seeds if s["value"] is not None and s["value"] * (1 if above else -1) > 0
    ]
    if len(agreeing) != len(seeds):
        return "tie", f"only {len(agreeing)} of {len(seeds)} seeds agree in sign"
    every = "both seeds" if len(seeds) == 2 else f"all {len(seeds)} seeds"
    why = f"the interval excludes 0 and {every} agree in sign"
    if len(seeds) == 1:
        why = "the interval excludes 0; with one seed, chance between seeds is unknown"
    if _of_two_trainings(str(found.get("a")), str(found.get("b"))):
        if len(seeds) == 1:
            return "tie", "with one seed, chance between two training runs is unknown"
        half = half_width_over_seeds([s["value"] for s in seeds])
        if abs(fmean(s["value"] for s in seeds)) <= half:
            return "tie", (
                f"chance between training runs is as large: over {len(seeds)} seeds the difference "
                f"is known to ± {decimal(half)}"
            )
        why += f", and the interval over seeds (± {decimal(half)}, Student's t) excludes 0"
    return ("better" if above == higher_is_better else "worse"), why


def _of_two_trainings(a: str, b: str) -> bool:
    """Whether chance in training moves the two arms apart; a model and itself blanked share it."""
    models = {sighted(a), sighted(b)}
    return len(models) == 2 and not models & set(UNTRAINED)


def half_width_over_seeds(values: Sequence[float]) -> float:
    """Half of the 95 % interval of the mean over seeds, by Student's t; two values or more."""
    freedom = len(values) - 1
    quantile = T_QUANTILES[min(freedom, len(T_QUANTILES)) - 1]
    return quantile * stdev(values) / math.sqrt(len(values))


def arm_scores(scores: Mapping[str, Any], arm: str, kind: str) -> dict[str, Any] | None:
    """An arm's mean, spread and interval on one metric."""
    for one in scores["arms"]:
        if one["arm"] == arm:
            return one["scores"].get(kind)
    return None


def _quality(scores: Mapping[str, Any], metric: Mapping[str, Any]) -> Claim:
    kind, name = metric["kind"], metric["name"]
    student, teacher = (arm_scores(scores, arm, kind) for arm in ("student", "teacher"))
    if student is None or student["mean"] is None:
        clause = f"The student has no score in {name}"
        return Claim("teacher", "not_measured", clause, f"{clause}.")
    digits = score_decimals([student["mean"], teacher["mean"] if teacher else None])
    own = decimal(student["mean"], digits)
    found = difference(scores, kind, "student", "teacher")
    if teacher is None or teacher["mean"] is None or found is None:
        spread = interval(student["low"], student["high"], digits)
        clause = f"The student scores {own} {spread} in {name}, and the teacher was not measured"
        return Claim("teacher", "not_measured", clause, f"{clause}.")
    judged, why = outcome(found, metric["higher_is_better"])
    pair = f"{own} against {decimal(teacher['mean'], digits)}"
    gap = _gap(found, digits)
    if metric["higher_is_better"] and teacher["mean"] > 0 and found["low"] is not None:
        # The interval of the difference, in units of the teacher's score held as it was measured.
        kept, low, high = (
            percent(1 + found[bound] / teacher["mean"]) for bound in ("mean", "low", "high")
        )
        clause = f"The student reaches {kept} of the teacher's {name} ({low} to {high}; {pair})"
    else:
        clause = f"The student's {name} differs from the teacher's by {gap} ({pair})"
    words = {"better": "is above", "worse": "is below", "tie": "cannot be told from"}
    statement = f"{name}: the student {words.get(judged, 'was not compared with')} the teacher"
    if not metric["higher_is_better"]:
        words = {"better": "is better than", "worse": "is worse than", "tie": words["tie"]}
        statement = f"{name} (less is better): the student {words.get(judged, '?')} the teacher"
    return Claim("teacher", judged, clause, f"{statement}: difference {gap}.", why)


def _against(scores: Mapping[str, Any], metric: Mapping[str, Any], arm: str, noun: str) -> Claim:
    found = difference(scores, metric["kind"], "student", arm)
    judged, why = outcome(found, metric["higher_is_better"])
    clause = {
        "better": f"it beats {noun}",
        "worse": f"it loses to {noun}",
        "tie": f"no difference from {noun} that we can tell",
        "not_measured": f"{noun} was not measured",
    }[judged]
    if found is None or judged == "not_measured":
        return Claim(arm, judged, clause, f"Against {noun} ({arm}): not measured.", why)
    gap = _gap(found, score_decimals([found["low"], found["high"]]))
    verb = {"better": "beats", "worse": "loses to", "tie": "cannot be told from"}[judged]
    statement = f"The student {verb} {noun} ({arm}): difference {gap} in {metric['name']}."
    return Claim(arm, judged, clause, statement, why)


def _against_control(
    scores: Mapping[str, Any], metric: Mapping[str, Any], steps: Mapping[str, Sequence[int]]
) -> Claim:
    found = difference(scores, metric["kind"], "student", "control")
    judged, why = outcome(found, metric["higher_is_better"])
    at = _at_steps(steps)
    clause = {
        "better": f"distillation beats plain cross-entropy training {at}",
        "worse": f"distillation loses to plain cross-entropy training {at}",
        "tie": f"no difference we can tell between distillation and plain cross-entropy {at}",
        "not_measured": "whether distillation beats plain cross-entropy was not measured",
    }[judged]
    if found is None or judged == "not_measured":
        return Claim("control", judged, clause, f"{clause[0].upper()}{clause[1:]}.", why)
    gap = _gap(found, score_decimals([found["low"], found["high"]]))
    statement = f"{clause[0].upper()}{clause[1:]}: difference {gap} in {metric['name']}."
    return Claim("control", judged, clause, statement, why)


def _at_steps(steps: Mapping[str, Sequence[int]]) -> str:
    student, control = (sorted(set(steps.get(arm, ()))) for arm in ("student", "control"))
    if not student or not control:
        return "(steps not recorded)"
    if student == control and len(student) == 1:
        return f"at equal steps ({count(student[0])})"
    if sorted(steps["student"]) == sorted(steps["control"]):
        return "at equal steps"
    written = [" / ".join(count(n) for n in arm) for arm in (student, control)]
    return f"at unequal steps ({written[0]} against {written[1]})"


def _savings(costs: Mapping[str, Mapping[str, Any]], served_teacher: bool) -> list[Claim]:
    if "teacher" not in costs or "student" not in costs:
        missing = " and ".join(arm for arm in ("teacher", "student") if arm not in costs)
        why = f"there is no benchmark of the {missing}"
        if served_teacher:
            why = "the teacher runs on a server, where it was not timed"
        return [
            Claim(key, "not_measured", f"{noun} not measured", f"{noun}: not measured.", why)
            for key, noun in (("size", "Size"), ("latency", "Latency"), ("memory", "Memory"))
        ]
    teacher, student = dict(costs["teacher"]), dict(costs["student"])
    gained = costs_of.gains(teacher, student)
    mixed = " (mixed pair)" if gained["mixed"] else ""
    speed, memory = (
        _saving(key, gained[key], words, mixed, "; ".join(gained["mixed"]))
        for key, words in (("latency", ("lower", "higher")), ("memory", ("less", "more")))
    )
    aside = {
        "latency": _other_regime(gained["latency"], gained["fixed_latency"]),
        "memory": _own_memory(gained["own_memory"]),
    }
    speed, memory = (
        replace(one, statement=one.statement + aside[one.key]) for one in (speed, memory)
    )
    lengths = costs_of.answer_lengths(teacher, student)
    if lengths and abs(lengths[0] / lengths[1] - 1) > SIMILAR_LENGTH:
        text = f"answers have {decimal(lengths[1], 1)} tokens against {decimal(lengths[0], 1)}"
        speed = replace(speed, why="; ".join(filter(None, [speed.why, text])))
    return [_size(gained["parameters"]), speed, memory]


def _other_regime(shown: Mapping[str, Any] | None, fixed: Mapping[str, Any] | None) -> str:
    """The speed-up per token, beside the one a user feels."""
    if not shown or not fixed or shown["regime"] == fixed["regime"]:
        return ""
    return f" At equal answer length: {times(fixed['gain'])} the speed."


def _own_memory(found: Mapping[str, Any] | None) -> str:
    """What of the memory is the model's own, where the runtime's share was measured."""
    if not found:
        return ""
    values = [quantity(found[who], found["unit"]) for who in ("arm", "teacher")]
    return f" Without the bare runtime: {values[0]} against {values[1]}."


def _size(ratio: float | None) -> Claim:
    if ratio is None:
        return Claim("size", "not_measured", "size not measured", "Size: not measured.")
    word = "fewer" if ratio >= 1 else "more"
    clause = f"{times(ratio if ratio >= 1 else 1 / ratio)} {word} parameters"
    judged: Outcome = "better" if ratio > 1 else "worse" if ratio < 1 else "tie"
    if judged == "tie":
        clause = "as many parameters"
    return Claim("size", judged, clause, f"Size: {clause}.")


def _saving(
    noun: str, found: Mapping[str, Any] | None, words: tuple[str, str], mixed: str, why: str
) -> Claim:
    if found is None:
        reason = "not measured for both in the same way"
        return Claim(
            noun,
            "not_measured",
            f"{noun} not compared",
            f"{noun.capitalize()}: not compared.",
            reason,
        )
    ratio = found["gain"]
    kind = f" ({found['memory_kind']})" if found["memory_kind"] else ""
    values = f"{quantity(found['arm'], found['unit'])} against " + quantity(
        found["teacher"], found["unit"]
    )
    if abs(ratio - 1) <= NEAR_ONE:
        judged, clause = "tie", f"about the same {noun}{kind}{mixed}"
    else:
        judged = "better" if ratio > 1 else "worse"
        size = times(ratio if ratio > 1 else 1 / ratio)
        clause = f"{size} {words[0] if ratio > 1 else words[1]} {noun}{kind}{mixed}"
    statement = f"{clause[0].upper()}{clause[1:]}: {values}, {condition(found['regime'])}."
    if found["spreads_overlap"] and judged != "tie":
        why = "; ".join(filter(None, [why, "the spreads of the two overlap"]))
    return Claim(noun, judged, clause, statement, why)


def _basis(scores: Mapping[str, Any]) -> str:
    seeds = next(arm["seeds"] for arm in scores["arms"] if arm["arm"] == "student")
    number = len([seed for seed in seeds if seed is not None]) or 1
    confidence = percent(scores["confidence"], 0)
    samples = f"{count(scores['n'])} sample{'s' if scores['n'] != 1 else ''}"
    seed_text = f"{number} seed{'s' if number != 1 else ''}"
    return f"measured on {samples} with {seed_text}, {confidence} intervals"


def _gap(found: Mapping[str, Any], digits: int) -> str:
    spread = interval(found["low"], found["high"], digits)
    return f"{decimal(found['mean'], digits, signed=True)} {spread}"


def _negated(one: Mapping[str, Any]) -> dict[str, Any]:
    turned = {"mean": "mean", "value": "value", "low": "high", "high": "low"}
    return {
        to: None if one.get(name) is None else -one[name]
        for name, to in turned.items()
        if name in one
    }


def _negated_seeds(one: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{**seed, **_negated(seed)} for seed in one.get("per_seed") or []]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
