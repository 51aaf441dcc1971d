"""Four answers from the results: what to deploy, what it costs, how sure we are, where it fails.

Pure functions over the assembled results; every word follows from an outcome or a number there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report import cost as costs_of
from limbeck.report.format import (
    MISSING,
    condition,
    count,
    data_size,
    decimal,
    interval,
    parameters,
    percent,
    quantity,
    score_decimals,
    times,
)
from limbeck.report.verdict import NEAR_ONE, arm_scores, difference

SHOWN_GROUPS = 2


def answers_of(results: Mapping[str, Any]) -> list[dict[str, str]]:
    """The four answers, each with its question and a tone; none where no student was judged.

    Args:
        results: what `assemble` has put together, with `verdict`, `failures`, `costs`, `warnings`.
    """
    claims = {claim["key"]: claim for claim in results["verdict"]["claims"]}
    if not claims:
        return []
    choice, tone = _choice(results, {key: claim["outcome"] for key, claim in claims.items()})
    return [
        {"question": "Which model to deploy?", "answer": choice, "tone": tone},
        {"question": "What does it cost?", "answer": _cost(results), "tone": ""},
        {"question": "How sure is that?", "answer": _certainty(results), "tone": ""},
        {"question": "Where does it fail?", "answer": _failures(results), "tone": ""},
    ]


def _choice(results: Mapping[str, Any], found: Mapping[str, str]) -> tuple[str, str]:
    """The recommendation, and whether it is good news."""
    quality, name = found["teacher"], _metric(results)["name"]
    unlooking = [
        row["arm"]
        for row in results["floors"]
        if row["outcome"] != "better" and row["arm"] in ("teacher", "student")
    ]
    if "teacher" in unlooking:
        return (
            "None of these yet: the teacher does not beat its floors, so it teaches little.",
            "worse",
        )
    if found["baseline"] in ("worse", "tie"):
        return (
            "Not this student: training did not make it better than its untrained self.",
            "worse",
        )
    if "student" in unlooking:
        return "Not this student: it does not beat what answers without looking.", "worse"
    cheaper = [key for key in ("size", "latency", "memory") if found.get(key) == "better"]
    what = "the student"
    if found["control"] == "worse":
        what = "the control (plain cross-entropy training, which costs the same and scores higher)"
    aside = ""
    if found["control"] == "tie":
        aside = (
            " Distillation did not show an advantage over plain training, so the control is as"
            " good a choice and simpler to make."
        )
    if quality == "not_measured":
        return (
            f"{_capital(what)}, if its own {name} is enough: the teacher was not measured.{aside}",
            "",
        )
    if not cheaper and found.get("size") != "not_measured":
        if quality == "worse":
            return "The teacher: the student is worse and nothing measured is cheaper.", "worse"
        return f"{_capital(what)}, though nothing measured is cheaper than with the teacher.", ""
    if quality in ("better", "tie"):
        better = "is better than" if quality == "better" else "cannot be told from"
        return f"{_capital(what)}: its {name} {better} the teacher's.{aside}", "better"
    kept = _lost(results)
    return (
        f"{_capital(what)}, where {kept} may be given up for what it saves; the teacher where it"
        f" may not.{aside}",
        "",
    )


def _lost(results: Mapping[str, Any]) -> str:
    metric, scores = _metric(results), results["evaluation"]
    gap = difference(scores, metric["kind"], "student", "teacher")
    teacher = arm_scores(scores, "teacher", metric["kind"])
    if not gap or not teacher or not teacher["mean"] or not metric["higher_is_better"]:
        return f"some {metric['name']}"
    return f"{percent(-gap['mean'] / teacher['mean'])} of the teacher's {metric['name']}"


def _cost(results: Mapping[str, Any]) -> str:
    cost = results["costs"].get("student")
    if cost is None:
        return "Not known: the student was not benchmarked."
    gained = results["gains"].get("student") or {}

    def against(name: str) -> str:
        found = gained.get(name)
        ratio = found["gain"] if isinstance(found, Mapping) else found
        if ratio is None:
            return ""
        if abs(ratio - 1) <= NEAR_ONE:
            return " (about the teacher's)"
        less = "less" if ratio >= 1 else "more"
        return f" ({times(ratio if ratio >= 1 else 1 / ratio)} {less} than the teacher)"

    parts = [
        f"{parameters(cost['parameters'])} parameters{against('parameters')}",
        f"{data_size(cost['disk_bytes'])} on disk",
    ]
    if latency := costs_of.latency(cost):
        text = quantity(latency["value"], latency["unit"])
        parts.append(f"{text} an answer{against('latency')} at {condition(latency['regime'])}")
    if memory := costs_of.peak_memory(cost):
        kind = memory.get("memory_kind")
        text = quantity(memory["value"], memory["unit"]) + (f" of {kind}" if kind else "")
        parts.append(f"{text} at its peak{against('memory')}")
    machine = cost.get("machine") or {}
    device = machine.get("device")
    where = f", on {device} ({machine.get('cpu', MISSING)})" if device else ""
    return f"{'; '.join(parts)}{where}."


def _certainty(results: Mapping[str, Any]) -> str:
    scores, metric = results["evaluation"], _metric(results)
    student = next(arm for arm in scores["arms"] if arm["arm"] == "student")
    seeds = len([seed for seed in student["seeds"] if seed is not None]) or 1
    confidence = percent(scores["confidence"], 0)
    parts = []
    own = student["scores"].get(metric["kind"])
    if own and own["mean"] is not None:
        digits = score_decimals([own["mean"]])
        parts.append(
            f"its {metric['name']} is {decimal(own['mean'], digits)} "
            f"{interval(own['low'], own['high'], digits)}"
        )
    gap = difference(scores, metric["kind"], "student", "teacher")
    if gap and gap["low"] is not None:
        digits = score_decimals([gap["low"], gap["high"]])
        parts.append(
            f"the difference to the teacher {decimal(gap['mean'], digits, signed=True)} "
            f"{interval(gap['low'], gap['high'], digits)}"
        )
    text = f"With {confidence} confidence on {count(scores['n'])} samples: {' and '.join(parts)}."
    if seeds == 1:
        text += " One seed only: another training run may come out differently."
    else:
        spread = own["sd"] if own and own.get("sd") is not None else None
        text += f" {seeds} seeds"
        text += f" differ by a standard deviation of {decimal(spread)}." if spread else "."
    if number := len(results["warnings"]):
        text += f" {number} warning{'s' if number != 1 else ''} below."
    return text


def _failures(results: Mapping[str, Any]) -> str:
    found, metric = results["failures"], _metric(results)
    if found is None:
        return "Not known: student and teacher were not scored on the same samples."
    text = (
        f"It is behind the teacher on {percent(found['behind'] / found['n'])} of the samples, "
        f"even on {percent(found['even'] / found['n'])}, ahead on "
        f"{percent(found['ahead'] / found['n'])}."
    )
    worst = [row for row in found["groups"] if row["gap"] < 0][:SHOWN_GROUPS]
    if worst:
        named = " and ".join(
            f"{row['by'].replace('_', ' ')} {row['group']} "
            f"({decimal(row['gap'], signed=True)} {interval(row['low'], row['high'])}, "
            f"n {count(row['n'])})"
            for row in worst
        )
        text += f" Furthest behind in {metric['name']}: {named}."
    return text


def _metric(results: Mapping[str, Any]) -> Mapping[str, Any]:
    metrics = results["evaluation"]["metrics"]
    return next(m for m in metrics if m["kind"] == results["headline"])


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
