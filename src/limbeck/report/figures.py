"""The report's key figures and plots, from the assembled results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from limbeck.recipe.recipe import WITHOUT_MODEL, sighted
from limbeck.report import cost as costs_of
from limbeck.report.format import (
    condition,
    data_size,
    decimal,
    interval,
    parameters,
    percent,
    quantity,
    score_decimals,
    spread,
    times,
)
from limbeck.report.plots import (
    Bar,
    Line,
    Point,
    colours,
    curves,
    differences,
    histogram,
    scatter,
)
from limbeck.report.score_tables import others_of
from limbeck.report.table import Results
from limbeck.report.verdict import arm_scores, difference, outcome

PART_COLOURS = 5


@dataclass(frozen=True)
class Card:
    """One key figure: the number, what it is, and what it rests on."""

    label: str
    value: str
    detail: str
    tone: str


def cards(results: Results) -> list[Card]:
    """Quality kept, size, latency, memory, and what distillation added to plain training."""
    tones = {claim["key"]: claim["outcome"] for claim in results["verdict"]["claims"]}
    gained = results["gains"].get("student")
    found = [_quality_card(results, tones)]
    if gained:
        teacher, student = results["costs"]["teacher"], results["costs"]["student"]
        found.append(
            Card(
                "smaller, by parameters",
                times(gained["parameters"]),
                f"{parameters(teacher['parameters'])} → {parameters(student['parameters'])}; "
                f"on disk {data_size(teacher['disk_bytes'])} → {data_size(student['disk_bytes'])}",
                tones.get("size", ""),
            )
        )
        mixed = "; mixed pair" if gained["mixed"] else ""
        for key, label in (("latency", "faster, p50 latency"), ("memory", "less peak memory")):
            if one := gained[key]:
                kind = f"{one['memory_kind']}, " if one["memory_kind"] else ""
                pair = [quantity(one[who], one["unit"]) for who in ("teacher", "arm")]
                detail = f"{pair[0]} → {pair[1]}; {kind}{condition(one['regime'])}{mixed}"
                found.append(Card(label, times(one["gain"]), detail, tones.get(key, "")))
    found.append(_control_card(results, tones))
    return [card for card in found if card.value]


def trade_off(results: Results, which: str) -> Markup | None:
    """Quality against `latency` or `memory`, one mark an arm; None with fewer than two arms."""
    quantity_of = costs_of.latency if which == "latency" else costs_of.peak_memory
    metric = _metric(results)
    points, kinds = [], set()
    colour = colours(arm["arm"] for arm in results["evaluation"]["arms"])
    for arm in results["evaluation"]["arms"]:
        score = arm["scores"].get(metric["kind"]) if metric else None
        cost = results["costs"].get(arm["arm"])
        measured = quantity_of(cost) if cost else None
        if not score or score["mean"] is None or not measured:
            continue
        kinds.add(measured.get("memory_kind") or measured["regime"])
        points.append(_trade_point(arm["arm"], colour[arm["arm"]], score, measured))
    if len(points) < 2:
        return None
    if which == "latency":
        x_label = "latency p50, ms"
        name = f"{metric['name']} against latency"
    else:
        x_label = f"peak memory, MiB ({', '.join(sorted(kinds))})"
        name = f"{metric['name']} against peak memory"
    if len(kinds) > 1 and which == "memory":
        name += " (kinds of memory differ: do not compare)"
    about = "; ".join(point.hover for point in points)
    return scatter(points, x_label=x_label, y_label=metric["name"], name=name, about=about)


def difference_plot(results: Results) -> Markup | None:
    """The student's paired differences on the headline metric, around zero."""
    scores, metric = results["evaluation"], _metric(results)
    if metric is None:
        return None
    colour = colours(arm["arm"] for arm in scores["arms"])
    bars = []
    for arm in others_of(scores):
        found = difference(scores, metric["kind"], "student", arm)
        if found is None or None in (found["mean"], found["low"], found["high"]):
            continue
        digits = score_decimals([found["low"], found["high"]])
        text = f"{decimal(found['mean'], digits, signed=True)} " + interval(
            found["low"], found["high"], digits
        )
        seeds = tuple(s["value"] for s in found["per_seed"] if s["value"] is not None)
        why = outcome(found, metric["higher_is_better"])[1]
        label = f"student − {arm}"
        bars.append(
            Bar(
                colour[arm],
                label,
                text,
                found["mean"],
                found["low"],
                found["high"],
                seeds,
                f"{label}: {text}; {why}",
                may_leave=arm in ("baseline", *WITHOUT_MODEL) or sighted(arm) != arm,
            )
        )
    if not bars:
        return None
    about = "; ".join(bar.hover for bar in bars)
    return differences(bars, name=f"Paired differences in {metric['name']}", about=about)


def loss_plots(results: Results) -> list[tuple[str, Markup, list[tuple[str, str]]]]:
    """Per trained arm: its name, its curves (all seeds), and the legend as (class, text)."""
    plots = []
    for arm in dict.fromkeys(model["arm"] for model in results["models"]):
        models = [
            m for m in results["models"] if m["arm"] == arm and m["id"] in results["training"]
        ]
        curve_of = {m["id"]: results["training"][m["id"]]["curve"] for m in models}
        parts = list(dict.fromkeys(name for c in curve_of.values() for name in c["losses"]))
        lines, legend = [], [("line-total total", "total")]
        for model in models:
            curve = curve_of[model["id"]]
            for name, values in curve["losses"].items() if len(parts) > 1 else ():
                part = f"line-part{parts.index(name) % PART_COLOURS}"
                lines.append(Line(part, f"{name}, {model['id']}", curve["step"], values, "part"))
            lines.append(Line("line-total", f"total, {model['id']}", curve["step"], curve["loss"]))
        if not any(value is not None for line in lines for value in line.y):
            continue
        if len(parts) > 1:
            legend += [(f"line-part{i % PART_COLOURS} part", n) for i, n in enumerate(parts)]
        about = "; ".join(
            f"{m['id']}: from {decimal(_first(curve_of[m['id']]['loss']))} to "
            f"{decimal(_first(curve_of[m['id']]['loss'][::-1]))}"
            for m in models
        )
        breaks = sorted({step for m in models for step in results["training"][m["id"]]["phases"]})
        if breaks:
            about += f"; a further phase begins at step {', '.join(map(str, breaks))}"
        plot = curves(
            lines,
            x_label="step",
            y_label="loss",
            name=f"Loss of {arm}",
            about=about,
            breaks=breaks,
        )
        plots.append((arm, plot, legend))
    return plots


def histograms(results: Results) -> list[tuple[str, Markup]]:
    """The data's distributions, those that vary."""
    found = []
    for name, one in results["data"]["distributions"].items():
        bins = one["histogram"]
        if len(bins["counts"]) > 1:
            about = f"mean {decimal(one['mean'], 1)}, {len(bins['counts'])} bins"
            plot = histogram(bins["edges"], bins["counts"], x_label=name, name=name, about=about)
            found.append((name, plot))
    return found


def _quality_card(results: Results, tones: Mapping[str, str]) -> Card:
    scores, metric = results["evaluation"], _metric(results)
    if metric is None or (student := arm_scores(scores, "student", metric["kind"])) is None:
        return Card("", "", "", "")
    teacher = arm_scores(scores, "teacher", metric["kind"])
    found = difference(scores, metric["kind"], "student", "teacher")
    digits = score_decimals([student["mean"], teacher["mean"] if teacher else None])
    own = decimal(student["mean"], digits)
    if not teacher or not found or not teacher["mean"] or not metric["higher_is_better"]:
        detail = interval(student["low"], student["high"], digits)
        return Card(f"student's {metric['name']}", own, detail, tones.get("teacher", ""))
    bounds = " to ".join(percent(1 + found[b] / teacher["mean"]) for b in ("low", "high"))
    return Card(
        f"of the teacher's {metric['name']}",
        percent(1 + found["mean"] / teacher["mean"]),
        f"{bounds}; {own} against {decimal(teacher['mean'], digits)}",
        tones.get("teacher", ""),
    )


def _control_card(results: Results, tones: Mapping[str, str]) -> Card:
    scores, metric = results["evaluation"], _metric(results)
    found = difference(scores, metric["kind"], "student", "control") if metric else None
    if metric is None or found is None:
        return Card("", "", "", "")
    digits = score_decimals([found["low"], found["high"]])
    return Card(
        "distilled − plain training",
        decimal(found["mean"], digits, signed=True),
        f"{metric['name']}, {interval(found['low'], found['high'], digits)}",
        tones.get("control", ""),
    )


def _trade_point(
    arm: str, colour: str, score: Mapping[str, Any], measured: Mapping[str, Any]
) -> Point:
    digits = score_decimals([score["mean"]])
    hover = (
        f"{arm}: {decimal(score['mean'], digits)} {interval(score['low'], score['high'], digits)}, "
        f"{quantity(measured['value'], measured['unit'])}"
    )
    if measured.get("low") is not None and measured.get("high") is not None:
        bounds = spread(measured["low"], measured["high"], measured["unit"])
        hover += f" ({measured.get('spread') or 'spread'} {bounds})"
    seeds = tuple(v for v in score.get("per_seed") or () if v is not None)
    return Point(
        colour,
        arm,
        measured["value"],
        score["mean"],
        measured.get("low"),
        measured.get("high"),
        score.get("low"),
        score.get("high"),
        seeds if len(seeds) > 1 else (),
        hover,
        off_scale=f"{arm} {decimal(score['mean'], digits)}, off the scale",
        may_leave=arm == "baseline",
    )


def _metric(results: Results) -> Mapping[str, Any] | None:
    metrics = results["evaluation"]["metrics"]
    return next((m for m in metrics if m["kind"] == results["headline"]), None)


def _first(values: list[float | None]) -> float | None:
    return next((value for value in values if value is not None), None)
