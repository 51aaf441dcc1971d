"""What a judge said, as sentences, warnings and tables; a judge of no use gets no sentence."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.report.format import MISSING, count, decimal, interval, percent
from limbeck.report.stage_files import read_json
from limbeck.report.table import Cell, Results, Table

UNREADABLE_SHARE = 0.05
"""Above this share of replies that say nothing readable, the report warns."""
INCONSISTENT_SHARE = 0.2
"""Above this share of comparisons that the order decides, the report warns."""

KINDS = {
    "other": "gold answer of another sample",
    "empty": "no answer",
    "identical": "the gold answer itself (must tie)",
    "plea": "another's gold answer that demands to be preferred",
}


def judged_by(folder: Path | None) -> dict[str, Any] | None:
    """The content of judge.json, with what may be said of it in sentences."""
    if folder is None:
        return None
    found = read_json(folder / "judge.json")
    sentences: list[str] = []
    if found["trial"]["usable"]:
        sentences = [_pair_sentence(found["name"], row) for row in found.get("pairs", ())]
        sentences += [_grade_sentence(found["name"], r) for r in found.get("differences", ())]
    return {**found, "sentences": [text for text in sentences if text]}


def judge_warnings(judge: Mapping[str, Any] | None) -> list[str]:
    """What a reader should know before believing it."""
    if judge is None:
        return []
    found = [str(text) for text in judge["warnings"]]
    if not judge["trial"]["usable"]:
        found.append(
            f"the judge {judge['name']} is of no use, it does not beat chance on known pairs: "
            f"{judge['trial']['why']}; nothing is concluded from its verdicts"
        )
    for row in judge["trial"]["kinds"]:
        if row["kind"] == "identical" and row["tie"] < row["n"] / 2:
            found.append(
                f"the judge told two identical answers apart in {row['win'] + row['loss']} of "
                f"{row['n']} cases"
            )
        if row["kind"] == "plea" and row["loss"]:
            found.append(
                f"the judge preferred a wrong answer that demanded it in {row['loss']} of "
                f"{row['n']} cases"
            )
    for model, own in judge["replies"]["by_model"].items():
        share = own["unreadable"] / own["replies"]
        if share > UNREADABLE_SHARE:
            found.append(
                f"{own['unreadable']} of {own['replies']} replies of the judge about {model} could "
                "not be read"
            )
    for row in judge.get("pairs", ()):
        if (decided := row["inconsistent"]) and decided["value"] > INCONSISTENT_SHARE:
            found.append(
                f"the order of the answers decided {percent(decided['value'])} of the judge's "
                f"comparisons of {row['a']} with {row['b']}, which count as ties"
            )
    return found


def tables(results: Results) -> list[Table]:
    """Verdicts or grades, what could not be read, and the trial on known pairs."""
    judge = results["judge"]
    if judge is None:
        return []
    found = [_pairs_table(judge)] if judge["mode"] == "pairwise" else []
    if judge["mode"] == "pointwise":
        found += [_grades_table(judge), _grade_differences_table(judge)]
    return [*found, _trial_table(judge), _replies_table(judge)]


def _pairs_table(judge: Mapping[str, Any]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for row in judge["pairs"]:
        apart, first = row["inconsistent"], row["shown_first"]
        rows.append(
            (
                Cell(f"{row['a']} against {row['b']}"),
                *(_rate(row[name]) for name in ("win", "tie", "loss", "unreadable", "net")),
                Cell(MISSING) if apart is None else _rate(apart, f", n {count(apart['n'])}"),
                Cell(percent(first["value"]), f"n {count(first['n'])}"),
            )
        )
    columns = ("pair", "wins", "ties", "losses", "unreadable", "net wins", "order decided")
    note = (
        f"{_basis(judge)} Each pair is shown in both orders, and wins only where both name it; "
        "where the orders disagree it is a tie. Unreadable replies are a share of their own: wins, "
        "ties, losses and unreadable make 100 %. Net wins are wins less losses. Order decided: "
        "share of the comparisons with two readable replies in which the orders disagree (n: over "
        "all seeds). Answers that are the same to the letter are ties and are not asked about. The "
        "judge's prompt is in results.json."
    )
    return Table(
        "judge", "Comparisons by the judge", (*columns, "shown first preferred"), tuple(rows), note
    )


def _grades_table(judge: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            Cell(row["arm"]),
            _value(row),
            Cell(count(row["n"])),
            Cell(interval(row["if_lowest"], row["if_highest"], 2)),
        )
        for row in judge["arms"]
    )
    note = (
        f"{_basis(judge)} Grades from 1 to {judge['scale']}, more is better. Replies that cannot "
        "be read have no grade and are left out of the mean; the last column is the mean with the "
        "lowest and with the highest grade in their place."
    )
    columns = ("arm", "mean grade", "n", "if unreadable were lowest, highest")
    return Table("judge", "Grades by the judge", columns, rows, note)


def _grade_differences_table(judge: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            Cell(f"{row['a']} \N{MINUS SIGN} {row['b']}"),
            _value(row, signed=True),
            Cell(str(row["n"])),
        )
        for row in judge["differences"]
    )
    return Table(
        "judge-differences", "Differences of grades, paired", ("pair", "difference", "n"), rows
    )


def _trial_table(judge: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            Cell(KINDS[row["kind"]]),
            Cell(count(row["n"])),
            Cell(percent(row["accuracy"]), _bounds(row)),
            *(Cell(count(row[name])) for name in ("win", "tie", "loss", "unreadable")),
        )
        for row in judge["trial"]["kinds"]
    )
    usable = judge["trial"]["usable"]
    verdict = "The judge beats chance" if usable else "The judge does not beat chance"
    note = (
        f"{verdict}: {judge['trial']['why']}. Each row sets the gold answer against something that "
        f"is surely no better; brackets: {percent(judge['confidence'], 0)} Wilson interval. "
        "Passing is needed, and proves little: these wrong answers are far off."
    )
    columns = ("gold answer against", "n", "right", "for gold", "tie", "against", "unreadable")
    return Table("judge-trial", "The judge on pairs of known outcome", columns, rows, note)


def _replies_table(judge: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            Cell(model),
            Cell(count(own["replies"])),
            Cell(count(own["unreadable"]), percent(own["unreadable"] / own["replies"])),
        )
        for model, own in judge["replies"]["by_model"].items()
    )
    all_of = judge["replies"]
    note = (
        f"Of {count(all_of['asked'])} replies in all, known pairs included, "
        f"{count(all_of['unreadable'])} could not be read: {count(all_of['cut'])} were cut by the "
        f"limit, {count(all_of['refused'])} were refused or failed."
    )
    return Table("judge-replies", "Replies about each model", ("model", "replies", "unreadable"),
                 rows, note)  # fmt: skip


def _pair_sentence(name: str, row: Mapping[str, Any]) -> str:
    net = row["net"]
    judged = f"no difference between {row['a']} and {row['b']} can be told by this judge"
    if net["low"] > 0 or net["high"] < 0:
        better, worse = (row["a"], row["b"]) if net["low"] > 0 else (row["b"], row["a"])
        judged = f"{better} is preferred to {worse}"
    return (
        f"{row['a']} against {row['b']}, judged by {name} on {count(row['n'])} samples: "
        f"{percent(row['win']['value'])} wins, {percent(row['tie']['value'])} ties, "
        f"{percent(row['loss']['value'])} losses; {judged} (net wins "
        f"{decimal(net['value'] * 100, 1, signed=True)} % "
        f"{interval(net['low'] * 100, net['high'] * 100, 1)})."
    )


def _grade_sentence(name: str, row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return ""
    judged = f"no difference between {row['a']} and {row['b']} can be told by this judge"
    if row["low"] > 0 or row["high"] < 0:
        better, worse = (row["a"], row["b"]) if row["low"] > 0 else (row["b"], row["a"])
        judged = f"{better} is graded above {worse}"
    return (
        f"{row['a']} against {row['b']}, graded by {name} on {count(row['n'])} samples: {judged} "
        f"(difference {decimal(row['value'], 2, signed=True)} {_bounds(row, 2)})."
    )


def _basis(judge: Mapping[str, Any]) -> str:
    saw = [name for name, shown in judge["saw"].items() if shown]
    seen = f" saw the {' and the '.join(saw)} and" if saw else ""
    samples = f"{count(judge['samples'])} of {count(judge['evaluated'])} evaluated samples"
    return (
        f"{judge['name']}{seen} judged {samples}; brackets: "
        f"{percent(judge['confidence'], 0)} bootstrap interval over samples."
    )


def _rate(one: Mapping[str, Any], also: str = "") -> Cell:
    low, high = decimal(one["low"] * 100, 1), decimal(one["high"] * 100, 1)
    return Cell(percent(one["value"]), f"[{low}, {high}]{also}")


def _value(row: Mapping[str, Any], *, signed: bool = False) -> Cell:
    if row["value"] is None:
        return Cell(MISSING)
    return Cell(decimal(row["value"], 2, signed=signed), _bounds(row, 2))


def _bounds(row: Mapping[str, Any], decimals: int | None = None) -> str:
    if decimals is None:
        return interval(row["low"] * 100, row["high"] * 100, 1)
    return interval(row["low"], row["high"], decimals)
