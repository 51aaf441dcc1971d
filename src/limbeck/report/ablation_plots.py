"""A plot for each axis of an ablation: levels by score, or differences to the base around zero."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from limbeck.report.format import decimal, interval, score_decimals
from limbeck.report.plots import Bar, Point, differences, scatter
from limbeck.report.table import Results

BASE, OTHER = "arm-student", "arm-extra0"


def ablation_plots(results: Results) -> list[tuple[str, Markup, str]]:
    """For each axis its name, its plot and a caption; by the headline metric."""
    ablation = results.get("ablation")
    metrics = {metric["kind"]: metric for metric in results["evaluation"]["metrics"]}
    metric = metrics.get(results["headline"])
    if not ablation or metric is None:
        return []
    found: list[tuple[str, Markup, str]] = []
    for axis in ablation["axes"]:
        rows = [
            row
            for row in ablation["effects"]
            if (row["axis"], row["metric"]) == (axis["path"], metric["kind"])
        ]
        if axis["listed"]:
            plot, caption = _listed(ablation, metric), "each point less the student"
        elif rows and axis["numbers"]:
            plot = _levels(axis, rows[0], metric)
            caption = "mean score of each level over the points that have it"
        elif rows:
            plot, caption = _ranked(axis, rows[0], metric), "each level less the worst one"
        else:
            continue
        if plot is not None:
            found.append((axis["path"], plot, caption))
    return found


def _levels(axis: Mapping[str, Any], row: Mapping[str, Any], metric: Mapping[str, Any]) -> Markup:
    digits = score_decimals(level["mean"] for level in row["levels"])
    points = []
    for index, (text, level) in enumerate(zip(axis["levels"], row["levels"], strict=True)):
        own = " (the recipe's)" if index == axis["base"] else ""
        hover = (
            f"{axis['path']} {text}{own}: {decimal(level['mean'], digits)} "
            f"{interval(level['low'], level['high'], digits)}"
        )
        seeds = tuple(level["per_seed"]) if len(level["per_seed"]) > 1 else ()
        points.append(
            Point(
                BASE if own else OTHER,
                text,
                axis["numbers"][index],
                level["mean"],
                y_low=level["low"],
                y_high=level["high"],
                seeds_y=seeds,
                hover=hover,
            )
        )
    name = f"{metric['name']} by {axis['path']}"
    about = "; ".join(point.hover for point in points)
    return scatter(points, x_label=axis["path"], y_label=metric["name"], name=name, about=about)


def _ranked(axis: Mapping[str, Any], row: Mapping[str, Any], metric: Mapping[str, Any]) -> Markup:
    """Levels without numbers: each as its mean less the worst level's, seed by seed.

    The interval is the one that holds for all pairs of levels.
    """
    worst = row["levels"][row["worst"]]
    found = row["difference"]
    half = found["high"] - found["mean"]
    digits = score_decimals([found["low"], found["high"]])
    bars = []
    for index, (text, level) in enumerate(zip(axis["levels"], row["levels"], strict=True)):
        if index == row["worst"]:
            continue
        mean = level["mean"] - worst["mean"]
        label = f"{text} − {axis['levels'][row['worst']]}"
        shown = f"{decimal(mean, digits, signed=True)} {interval(mean - half, mean + half, digits)}"
        seeds = tuple(a - b for a, b in zip(level["per_seed"], worst["per_seed"], strict=True))
        colour = BASE if index == axis["base"] else OTHER
        bars.append(
            Bar(
                colour,
                label,
                shown,
                mean,
                mean - half,
                mean + half,
                seeds if len(seeds) > 1 else (),
                f"{axis['path']}, {label}: {shown}",
            )
        )
    name = f"{metric['name']} by {axis['path']}"
    return differences(bars, name=name, about="; ".join(bar.hover for bar in bars))


def _listed(ablation: Mapping[str, Any], metric: Mapping[str, Any]) -> Markup | None:
    """The listed points' paired differences to the base."""
    rows = [
        (point["name"], found)
        for point in ablation["points"]
        if point["listed"] and (found := (point["difference"] or {}).get(metric["kind"]))
    ]
    digits = score_decimals([row[end] for _, row in rows for end in ("low", "high")])
    bars = []
    for name, row in rows:
        shown = f"{decimal(row['mean'], digits, signed=True)} " + interval(
            row["low"], row["high"], digits
        )
        seeds = tuple(one["value"] for one in row["per_seed"])
        bars.append(
            Bar(
                OTHER,
                f"{name} − student",
                shown,
                row["mean"],
                row["low"],
                row["high"],
                seeds if len(seeds) > 1 else (),
                f"{name} − student: {shown}; {row['why']}",
            )
        )
    if not bars:
        return None
    about = "; ".join(bar.hover for bar in bars)
    return differences(bars, name=f"{metric['name']}: points less the student", about=about)
