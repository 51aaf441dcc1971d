"""All runs under a work folder: their headline figures, as rows, as text and as a page to sort.

Everything is read from each run's `run.json` and `results.json`; a run without a report yet, or
with files that cannot be read, is listed as such.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from markupsafe import Markup

from limbeck.errors import DataError, UsageError
from limbeck.report import cost as costs_of
from limbeck.report.format import MISSING, count, decimal, interval, quantity, score_decimals
from limbeck.report.pages import environment, policy_for, script_of, text_of
from limbeck.report.pareto import Candidate, pareto_over_runs
from limbeck.report.plots import Point, scatter
from limbeck.report.section import Figure, Figures, Section, present
from limbeck.report.stage_files import read_json
from limbeck.report.table import Cell, Table
from limbeck.report.verdict import arm_scores

COLOURS = ("arm-student", "arm-teacher", "arm-control", *(f"arm-extra{i}" for i in range(4)))
PAGES = {"report": "index.html", "card": "model_card.md", "text": "README.md"}
ABOUT = (
    "Models that were measured alike: same samples, metric, machine and kind of memory. One is "
    "beaten where another is no worse in quality, latency and memory and clearly better in one."
)


def read_runs(work: Path) -> list[dict[str, Any]]:
    """Every run of a work folder, the latest first; `results` is None where there are none.

    Raises:
        UsageError: the folder has no runs.
    """
    folders = sorted(path.parent for path in (work / "runs").glob("*/run.json"))
    if not folders:
        mend = "give the work folder of a recipe that has been run"
        raise UsageError("there are no runs here", where=str(work / "runs"), mend=mend)
    runs = [_read(folder) for folder in folders]
    return sorted(runs, key=lambda run: (run["date"], run["name"]), reverse=True)


def summary_of(run: Mapping[str, Any]) -> dict[str, Any]:
    """A run's headline figures, without the whole of its results."""
    results = run["results"]
    found = {key: value for key, value in run.items() if key != "results"}
    if results is None:
        return found
    kind = results["headline"]
    metric = next((m for m in results["evaluation"]["metrics"] if m["kind"] == kind), None)
    cost = results["costs"].get("student")
    student = next((a for a in results["evaluation"]["arms"] if a["arm"] == "student"), None)
    return {
        **found,
        "verdict": results["verdict"]["sentence"],
        "metric": metric and {key: metric[key] for key in ("kind", "name", "higher_is_better")},
        "samples": results["evaluation"]["n"],
        "seeds": [seed for seed in (student or {"seeds": ()})["seeds"] if seed is not None],
        "scores": {
            arm: {key: score[key] for key in ("mean", "low", "high", "n")}
            for arm in ("student", "teacher")
            if metric and (score := arm_scores(results["evaluation"], arm, kind))
        },
        "parameters": cost and cost["parameters"],
        "latency": cost and costs_of.latency(cost),
        "memory": cost and costs_of.peak_memory(cost),
        "warnings": len(results["warnings"]),
    }


def describe_runs(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows as lines of text."""
    lines = []
    for row in rows:
        lines.append(f"{row['name']}  {row['date'][:16].replace('T', ' ')}  {row['recipe']}")
        if row["problem"]:
            lines.append(f"  {row['problem']}")
            continue
        score = _score(row, "student")
        costs = ", ".join(text for key in ("latency", "memory") if (text := _cost(row, key)))
        name = row["metric"]["name"] if row["metric"] else "no metric"
        seeds = len(row["seeds"]) or 1
        figures = f"{name} {score}, {count(row['samples'])} samples, seeds {seeds}"
        lines += [f"  {figures}; {costs or 'not benchmarked'}", f"  {row['report']}"]
    return "\n".join(lines)


def runs_page(runs: Sequence[Mapping[str, Any]], page: Path, work: Path) -> str:
    """One self-contained page with a sortable table; links are relative to where it is written."""
    script = script_of("page.js", "runs.js")
    rows = [summary_of(run) for run in runs]
    shown = [{**row, "cells": _cells(row), "links": _links(row, page)} for row in rows]
    return (
        environment(html=True)
        .get_template("runs.html.jinja")
        .render(
            work=work.name or str(work),
            rows=shown,
            columns=("run", "date", "score", "teacher's", "latency", "memory", "seeds"),
            pareto=_pareto([run["results"] for run in runs if run["results"] is not None]),
            colours={},
            policy=policy_for(script),
            style=Markup(text_of("page.css")),
            script=Markup(script),
        )
    )


def _read(folder: Path) -> dict[str, Any]:
    """One run; `problem` says why it has no results."""
    results, problem, recipe = None, "", {}
    try:
        recipe = read_json(folder / "run.json")["recipe"]
        if (folder / "results.json").is_file():
            results = read_json(folder / "results.json")
            if study := results.get("study"):
                results, problem = None, f"{study} study, see {folder / 'report' / 'index.html'}"
            elif missing := {"evaluation", "costs", "verdict", "headline"} - results.keys():
                raise DataError(f"lacks {', '.join(sorted(missing))}")
        else:
            problem = "no report yet"
    except (DataError, KeyError, TypeError, AttributeError) as error:
        results, problem = None, f"cannot be read: {error}"
    time = datetime.fromtimestamp((folder / "run.json").stat().st_mtime, UTC)
    date = (results or {}).get("evaluated") or time.strftime("%Y-%m-%dT%H:%M:%SZ")
    data = recipe.get("data") if isinstance(recipe, Mapping) else None
    return {
        "name": folder.name,
        "date": date,
        "recipe": f"on {(data or {}).get('source', 'unknown data')}",
        "problem": problem,
        "report": str(folder / "report" / "index.html") if results else None,
        "results": results,
    }


def _cells(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The text of every column, and by what it is sorted."""
    if row["problem"]:
        return []
    return [
        {"text": row["date"][:16].replace("T", " "), "key": row["date"]},
        _score_cell(row, "student"),
        _score_cell(row, "teacher"),
        _cost_cell(row, "latency"),
        _cost_cell(row, "memory"),
        {"text": str(len(row["seeds"]) or 1), "key": len(row["seeds"])},
    ]


def _score_cell(row: Mapping[str, Any], arm: str) -> dict[str, Any]:
    text, _, spread = _score(row, arm).partition(" ")
    name = row["metric"]["name"] if row["metric"] else ""
    detail = f"{name} {spread}".strip()
    return {"text": text, "detail": detail, "key": row["scores"].get(arm, {}).get("mean")}


def _cost_cell(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = row[key] or {"value": None, "unit": ""}
    text = quantity(found["value"], found["unit"])
    return {"text": text, "detail": found.get("memory_kind") or "", "key": found["value"]}


def _score(row: Mapping[str, Any], arm: str) -> str:
    score = row["scores"].get(arm)
    if not score or score["mean"] is None:
        return MISSING
    digits = score_decimals([score["mean"]])
    spread = interval(score["low"], score["high"], digits)
    return f"{decimal(score['mean'], digits)} {spread}"


def _cost(row: Mapping[str, Any], key: str) -> str:
    found = row[key]
    if not found:
        return ""
    kind = f" ({found['memory_kind']})" if found.get("memory_kind") else ""
    return quantity(found["value"], found["unit"]) + kind


def _links(row: Mapping[str, Any], page: Path) -> dict[str, str]:
    """What of a run's report there is, as addresses from the page."""
    if not row["report"]:
        return {}
    folder = Path(row["report"]).parent
    at = {name: folder / file for name, file in PAGES.items() if (folder / file).is_file()}
    start = page.resolve().parent
    return {name: quote(os.path.relpath(path.resolve(), start)) for name, path in at.items()}


def _pareto(results: Sequence[Mapping[str, Any]]) -> list[Section]:
    """For each group of models that may be compared: a plot, and who is beaten by nobody."""
    groups = [group for group in pareto_over_runs(results) if len(group) > 1]
    sections = []
    for number, group in enumerate(groups, start=1):
        title = "Models that no other beats" + (
            f" ({number} of {len(groups)})" if groups[1:] else ""
        )
        parts = present(Figures((_plot(group),), wide=True), _table(group, number))
        sections.append(Section(f"pareto-{number}", title, "Pareto", ABOUT, parts))
    return sections


def _plot(group: Sequence[tuple[Candidate, bool]]) -> Figure:
    runs = list(dict.fromkeys(one.run for one, _ in group))
    points = [
        Point(
            COLOURS[runs.index(one.run) % len(COLOURS)],
            f"{one.run}: {one.arm}" if best else "",
            one.latency_ms,
            one.quality,
            y_low=one.quality_low,
            y_high=one.quality_high,
            hover=f"{one.run}, {one.arm}: {_quality(one)}, {quantity(one.latency_ms, 'ms')}, "
            f"{quantity(one.memory_mib, 'MiB')}" + ("" if best else "; beaten"),
        )
        for one, best in group
    ]
    metric = group[0][0].metric
    about = "; ".join(point.hover for point in points)
    name = f"{metric} against latency over runs"
    plot = scatter(points, x_label="latency p50, ms", y_label=metric, name=name, about=about)
    return Figure(plot, "Named are the models that no other beats; a colour is a run.")


def _table(group: Sequence[tuple[Candidate, bool]], number: int) -> Table:
    rows = tuple(
        (
            Cell(one.run),
            Cell(one.arm),
            Cell(_quality(one)),
            Cell(quantity(one.latency_ms, "ms")),
            Cell(quantity(one.memory_mib, "MiB")),
            Cell("not beaten" if best else "beaten", tone="better" if best else "tie"),
        )
        for one, best in sorted(group, key=lambda pair: pair[0].latency_ms)
    )
    columns = ("run", "model", group[0][0].metric, "latency", "memory", "beaten?")
    caption = f"Comparable models, group {number}, the fastest first"
    return Table(f"pareto-table-{number}", caption, columns, rows)


def _quality(one: Candidate) -> str:
    digits = score_decimals([one.quality])
    return f"{decimal(one.quality, digits)} {interval(one.quality_low, one.quality_high, digits)}"
