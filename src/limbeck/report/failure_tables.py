"""Tables of failure: the groups and the samples on which the student is furthest behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from limbeck.report.format import count, decimal, interval, percent, score_decimals
from limbeck.report.table import Cell, Results, Table, shortened

MAX_CHARACTERS = 160
MAX_GROUPS = 12


def groups_table(results: Results) -> Table:
    """Groups of samples by the student's paired difference to the teacher, the worst first."""
    found = results["failures"] or {"groups": []}
    places = score_decimals(row["teacher"] for row in found["groups"])
    rows = tuple(
        (
            Cell(
                row["group"],
                row["by"].replace("_", " "),
                link=f"#category={quote(row['by'])}%3A%20{quote(row['group'])}&sort=behind",
            ),
            Cell(count(row["n"])),
            Cell(decimal(row["teacher"], places)),
            Cell(decimal(row["student"], places)),
            Cell(
                decimal(row["gap"], places, signed=True),
                interval(row["low"], row["high"], places),
                "worse" if row["high"] < 0 else "better" if row["low"] > 0 else "",
            ),
        )
        for row in found["groups"][:MAX_GROUPS]
    )
    columns = ("group", "n", "teacher", "student", "difference")
    note = (
        f"{_metric_name(results)}, mean over the samples of a group, the student's over its seeds; "
        f"{percent(results['evaluation']['confidence'], 0)} interval of the paired difference. Of "
        "many groups the worst is partly so by chance: read the intervals."
    )
    return Table("failing-groups", "Groups, the furthest behind first", columns, rows, note)


def samples_table(results: Results) -> Table:
    """The samples on which the student is furthest behind the teacher."""
    found = results["failures"] or {"samples": []}
    rows = tuple(_sample_row(row) for row in found["samples"])
    name = _metric_name(results)
    columns = ("sample", "reference", "teacher", "student", "difference")
    model = found.get("shown_model", "")
    note = (
        f"By {name}: the student's mean over its seeds minus the teacher's. The answer shown is "
        f"that of {model}; the first column leads to the sample in the gallery."
    )
    caption = "Samples, the furthest behind first"
    return Table("failing-samples", caption, columns, rows, note, prose=True)


def _sample_row(row: Mapping[str, Any]) -> tuple[Cell, ...]:
    references = row["references"]
    more = f"and {len(references) - 1} more" if len(references) > 1 else ""
    digits = score_decimals([row["teacher_score"]])
    return (
        Cell(shortened(row["id"], 120), link=f"#q={quote(row['id'][:120])}&sort=behind"),
        Cell(_short(references[0]) if references else "", more),
        Cell(_short(row["teacher"]), decimal(row["teacher_score"], digits)),
        Cell(_short(row["student"]), decimal(row["student_score"], digits)),
        Cell(decimal(row["gap"], digits, signed=True), tone="worse"),
    )


def _short(text: str) -> str:
    return shortened(text, MAX_CHARACTERS) if text.strip() else "(empty)"


def _metric_name(results: Results) -> str:
    names = {metric["kind"]: metric["name"] for metric in results["evaluation"]["metrics"]}
    return names.get(results["headline"], "")
