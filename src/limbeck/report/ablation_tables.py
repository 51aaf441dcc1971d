"""Tables of an ablation: its points with scores and differences, its axes with their levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report.format import MISSING, decimal, interval, percent, quantity, score_decimals
from limbeck.report.score_tables import OUTCOMES
from limbeck.report.table import Cell, Results, Table

EFFECTS = {"moved": "moved it", "none": "no difference we can tell", "equal": "changes nothing"}


def ablation_tables(results: Results) -> list[Table]:
    """The points by the headline metric, the effects of the axes, and the points by all metrics."""
    if not results.get("ablation") or results["headline"] is None:
        return []
    found = [points_table(results), effects_table(results), all_metrics_table(results)]
    return [table for table in found if table.rows]


def points_table(results: Results) -> Table:
    """Each point with its values, its score, its paired difference to the base, and its cost."""
    ablation, metric = results["ablation"], _metric(results)
    axes, points = ablation["axes"], ablation["points"]
    knobs = [axis["path"] for axis in axes if not axis["listed"]]
    costed = any(point["latency"] or point["memory"] for point in points)
    controlled = any(point["control_difference"] for point in points)
    digits = _digits(results, metric)
    rows = []
    for point in points:
        cells = [Cell(point["name"], "the recipe as it stands" if point["base"] else "")]
        cells += [
            Cell(point["values"].get(axis["path"], "")) for axis in axes if not axis["listed"]
        ]
        cells.append(_score(point["scores"].get(metric["kind"]), digits))
        cells.append(_difference(point["difference"], metric, digits))
        if controlled:
            cells.append(_difference(point["control_difference"], metric, digits))
        if costed:
            cells += [_cost(point, "latency"), _cost(point, "memory"), _mark(point)]
        rows.append(tuple(cells))
    arrow = "↑" if metric["higher_is_better"] else "↓"
    columns = ["point", *knobs]
    columns += [f"{metric['name']} {arrow}", "point − student"]
    columns += ["point − plain training"] * controlled
    columns += ["latency p50", "peak memory", "beaten?"] * costed
    note = (
        f"Means over seeds; brackets: {percent(results['evaluation']['confidence'], 0)} intervals, "
        "of differences paired by sample and by seed. A difference counts where its interval "
        "excludes 0, every seed agrees and it is larger than chance between training runs."
    )
    if costed:
        note += (
            " A cost marked “as student” was not measured again: the model is built alike. "
            "Unbeaten: no other point is as good in quality, latency and memory and clearly better "
            "in one."
        )
    return Table("ablation-points", "Points of the ablation", tuple(columns), tuple(rows), note)


def effects_table(results: Results) -> Table:
    """Each axis of the grid: its levels, and the difference between the best and the worst."""
    ablation, metric = results["ablation"], _metric(results)
    digits = _digits(results, metric)
    rows = []
    for axis in ablation["axes"]:
        for row in ablation["effects"]:
            if (row["axis"], row["metric"]) != (axis["path"], metric["kind"]):
                continue
            levels = "; ".join(
                f"{text}: {decimal(level['mean'], digits)} "
                f"{interval(level['low'], level['high'], digits)}"
                for text, level in zip(axis["levels"], row["levels"], strict=True)
            )
            found = row["difference"]
            gap = decimal(found["mean"], digits, signed=True)
            bounds = interval(found["low"], found["high"], digits)
            seeds = [decimal(s["value"], digits, signed=True) for s in found["per_seed"]]
            best, worst = (axis["levels"][row[which]] for which in ("best", "worst"))
            tone = "better" if row["outcome"] == "moved" else "tie"
            rows.append(
                (
                    Cell(axis["path"]),
                    Cell(levels),
                    Cell(f"{best} − {worst}"),
                    Cell(gap, bounds),
                    Cell(", ".join(seeds) or MISSING),
                    Cell(EFFECTS[row["outcome"]], row["why"], tone),
                )
            )
    columns = ("knob", "levels", "best − worst", "difference", "each seed", "conclusion")
    note = (
        "A level's score is the mean over the points that have it, under equal values of the other "
        "knobs; an effect that turns round between those is averaged away. The difference's "
        "interval holds for all pairs of levels at once, since the pair was chosen after looking."
    )
    return Table("ablation-effects", f"What moved {metric['name']}", columns, tuple(rows), note)


def all_metrics_table(results: Results) -> Table:
    """Points down, metrics across: the mean and its interval, the difference to the base."""
    metrics = results["evaluation"]["metrics"]
    rows = []
    for point in results["ablation"]["points"] if len(metrics) > 1 else ():
        cells = [Cell(point["name"])]
        for metric in metrics:
            digits = _digits(results, metric)
            cells.append(_score(point["scores"].get(metric["kind"]), digits))
            cells.append(_difference(point["difference"], metric, digits))
        rows.append(tuple(cells))
    columns = ["point"]
    for metric in metrics:
        arrow = "↑" if metric["higher_is_better"] else "↓"
        columns += [f"{metric['name']} {arrow}", f"{metric['name']}: point − student"]
    return Table("ablation-metrics", "Points by every metric", tuple(columns), tuple(rows))


def plain_text(table: Table) -> str:
    """The table for a terminal: columns aligned, the smaller part of a cell after it."""
    lines = [list(table.columns)]
    lines += [[f"{cell.text} {cell.detail}".strip() for cell in row] for row in table.rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(table.columns))]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _metric(results: Results) -> Mapping[str, Any]:
    return next(m for m in results["evaluation"]["metrics"] if m["kind"] == results["headline"])


def _digits(results: Results, metric: Mapping[str, Any]) -> int:
    own = [p["scores"].get(metric["kind"]) for p in results["ablation"]["points"]]
    return score_decimals(one["mean"] for one in own if one)


def _score(found: Mapping[str, Any] | None, digits: int) -> Cell:
    if not found:
        return Cell(MISSING)
    detail = interval(found["low"], found["high"], digits)
    if found.get("sd") is not None:
        detail += f" ± {decimal(found['sd'], digits)}"
    return Cell(decimal(found["mean"], digits), detail)


def _difference(rows: Mapping[str, Any] | None, metric: Mapping[str, Any], digits: int) -> Cell:
    found = (rows or {}).get(metric["kind"])
    if found is None:
        return Cell("")
    bounds = interval(found["low"], found["high"], digits)
    text = decimal(found["mean"], digits, signed=True)
    return Cell(text, f"{bounds} {OUTCOMES[found['outcome']]}", found["outcome"])


def _cost(point: Mapping[str, Any], which: str) -> Cell:
    found = point[which]
    if not found:
        return Cell(MISSING)
    shared = "" if point["cost_of"] == point["arm"] else f"as {point['cost_of']}"
    return Cell(quantity(found["value"], found["unit"]), shared)


def _mark(point: Mapping[str, Any]) -> Cell:
    if point["unbeaten"] is None:
        return Cell("")
    return Cell("unbeaten", tone="better") if point["unbeaten"] else Cell("beaten", tone="worse")
