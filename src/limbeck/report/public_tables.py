"""Scores on public benchmarks, as lmms-eval gave them."""

from __future__ import annotations

from limbeck.report.format import MISSING, count, decimal, interval, percent
from limbeck.report.table import Cell, Results, Table

COLUMNS = ("model", "task", "metric", "score", "n", "version", "cut answers")


def public_table(results: Results) -> Table:
    """One row for each model, task and metric."""
    public = results["public"]
    if public is None:
        return Table("public", "Public benchmarks", COLUMNS, ())
    rows: list[tuple[Cell, ...]] = []
    for model in public["models"]:
        for row in model["results"]:
            arrow = {True: " ↑", False: " ↓"}.get(row["higher_is_better"], "")
            spread = "" if row["low"] is None else interval(row["low"], row["high"])
            cut = model["cut"].get(row["task"])
            rows.append(
                (
                    Cell(model["id"]),
                    Cell(row["task"]),
                    Cell(row["metric"] + arrow),
                    Cell(decimal(row["value"]), spread or "no standard error"),
                    Cell(
                        count(row["n"]), "" if row["n"] == row["of"] else f"of {count(row['of'])}"
                    ),
                    Cell(row["version"]),
                    Cell(MISSING if cut is None else count(cut)),
                )
            )
    note = (
        f"Asked and scored by lmms-eval {public['lmms_eval']}; the models answered here, greedily, "
        "with the prompts and pixels of this evaluation. Brackets: "
        f"{percent(public['confidence'], 0)} interval, value ± z times lmms-eval's standard error. "
        "Cut answers: ended by the limit of new tokens."
    )
    return Table("public", "Public benchmarks", COLUMNS, tuple(rows), note)
