"""What an ablation found, in sentences that carry their uncertainty. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.recipe.design import Axis
from limbeck.report.format import count, decimal, percent, score_decimals


@dataclass(frozen=True)
class Words:
    """The metric of the sentences, and what they are measured on."""

    metric: Mapping[str, Any]
    samples: int
    confidence: float
    digits: int

    @classmethod
    def of(cls, scores: Mapping[str, Any], metric: Mapping[str, Any]) -> Words:
        """For the arms of an evaluation."""
        own = [row["scores"].get(metric["kind"]) for row in scores["arms"]]
        digits = score_decimals(one["mean"] for one in own if one)
        return cls(metric, scores["n"], scores["confidence"], digits)

    def gap(self, row: Mapping[str, Any]) -> str:
        """A signed difference and its interval."""
        mean, low, high = (
            decimal(row[name], self.digits, signed=True) for name in ("mean", "low", "high")
        )
        return f"{mean} [{low}, {high}]"


def knobs_sentence(axes: Sequence[Axis], own: Mapping[str, Any], words: Words) -> str:
    """Which knobs moved the metric, the one that moved it most first; or that none did."""
    name = words.metric["name"]
    judged = [own[axis.path] for axis in axes if axis.path in own]
    moved = [row for row in judged if row["outcome"] == "moved"]
    moved.sort(key=lambda row: -abs(row["difference"]["mean"]))
    basis = f"{count(words.samples)} samples, {_seeds(judged)}"
    if not judged:
        return f"No knob could be judged by {name}: none has two levels to compare."
    if not moved:
        return f"No knob moved {name} beyond the noise ({basis})."
    others = [row["axis"] for row in judged if row["outcome"] != "moved"]
    text = f"{moved[0]['axis']} moved {name}"
    if len(moved) > 1:
        rest = _listed([row["axis"] for row in moved[1:]])
        text = f"{moved[0]['axis']} moved {name} most, and {rest} did too"
    if others:
        text += f"; no effect that we can tell of {_listed(others)}"
    return f"{text} ({basis})."


def axis_sentence(axis: Axis, row: Mapping[str, Any] | None, words: Words) -> str:
    """The main effect of one axis with its interval and the reason of the judgement."""
    name = words.metric["name"]
    if row is None:
        return f"{axis.path}: not judged, since its levels were not trained under equal conditions."
    best, worst = (axis.levels[row[which]] for which in ("best", "worst"))
    contexts = len(row["levels"][0]["arms"])
    averaged = f", averaged over {contexts} combinations of the others" if contexts > 1 else ""
    if row["outcome"] == "equal":
        return f"{axis.path}: changes nothing in {name} ({row['why']})."
    gap = words.gap(row["difference"])
    if row["outcome"] == "moved":
        return (
            f"{axis.path}: {best} is better than {worst} by {gap} in {name}{averaged} "
            f"({percent(words.confidence, 0)} interval for all pairs of its {len(axis.levels)} "
            f"levels; {row['why']})."
        )
    return (
        f"{axis.path}: no difference in {name} that we can tell; its best level ({best}) and its "
        f"worst ({worst}) are {gap} apart{averaged} ({row['why']})."
    )


def list_sentences(points: Sequence[Mapping[str, Any]], words: Words) -> list[str]:
    """Which listed points helped against the base, which hurt, and which cannot be told from it."""
    kind, name = words.metric["kind"], words.metric["name"]
    found: dict[str, list[str]] = {}
    for point in points:
        row = (point["difference"] or {}).get(kind)
        if row is not None:
            found.setdefault(row["outcome"], []).append(f"{point['name']} ({words.gap(row)})")
    said = {"better": "Helped", "worse": "Hurt", "tie": "No difference that we can tell"}
    texts = [
        f"{text} in {name}, against the student: {', '.join(found[key])}."
        for key, text in said.items()
        if key in found
    ]
    if texts and not {"better", "worse"} & set(found):
        texts.insert(0, f"None of the listed points moved {name} beyond the noise.")
    return texts


def control_sentences(points: Sequence[Mapping[str, Any]], words: Words) -> list[str]:
    """At how many points distillation beats plain cross-entropy that saw the same."""
    kind = words.metric["kind"]
    rows = [(p["name"], (p["control_difference"] or {}).get(kind)) for p in points]
    judged = {
        key: [name for name, row in rows if row is not None and row["outcome"] == key]
        for key in ("better", "worse", "tie")
    }
    number = sum(map(len, judged.values()))
    if not number:
        return []
    parts = [
        f"{words_of} at {len(judged[key])}{_named(judged[key])}"
        for key, words_of in (
            ("better", "it is better"),
            ("worse", "it is worse"),
            ("tie", "no difference that we can tell"),
        )
        if judged[key]
    ]
    return [
        f"Distillation against plain cross-entropy with the same data, labels and training, at "
        f"{number} {'point' if number == 1 else 'points'}: {'; '.join(parts)}."
    ]


def comparisons_warning(number: int, words: Words) -> list[str]:
    """What many comparisons mean, where there are several."""
    if number < 2:
        return []
    chance = (1 - words.confidence) * number
    return [
        f"this ablation makes {number} comparisons by {words.metric['name']}, each judged at "
        f"{percent(words.confidence, 0)}: if nothing differed at all, up to {decimal(chance, 1)} "
        "of them would be expected to look like a difference (an axis' interval allows for the "
        "choice of its best and worst level, not for the number of axes or points)"
    ]


def _seeds(rows: Sequence[Mapping[str, Any]]) -> str:
    number = max((len(row["difference"]["per_seed"]) for row in rows), default=0)
    return f"{number} {'seed' if number == 1 else 'seeds'}"


def _named(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if len(names) <= 6 else ""


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
