"""Renders the assembled results as one self-contained HTML page and as Markdown."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from importlib.resources import files
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from limbeck.report import figures, tables
from limbeck.report.format import MISSING, count, data_size, decimal, duration, percent
from limbeck.report.plots import colours

Results = Mapping[str, Any]

FOLDER = files("limbeck.report")
_TOGETHER = re.compile(
    r"(?<=\d) (?=%|[KMGT]iB\b|[KMB]\b|(?:ms|s|min|h|seeds?|samples?)\b)|(?<=\d,) (?=[\d.\u2212]+\])"
)
"""Spaces at which a number would be torn from its unit, or an interval in two."""


def html_page(results: Results, gallery: Mapping[str, Any]) -> str:
    """The whole page: style, script, plots and images inside; it asks the network for nothing."""
    script = _text("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    arms = colours(arm["arm"] for arm in results["evaluation"]["arms"])
    models = {model["id"]: arms.get(model["arm"], "") for model in results["evaluation"]["models"]}
    return (
        _environment(html=True)
        .get_template("page.html.jinja")
        .render(
            results=results,
            policy=policy,
            style=Markup(_text("page.css")),
            script=Markup(script),
            gallery=gallery,
            gallery_json=Markup(inline_json({**gallery, "colours": arms})),
            colours={**models, **arms},
            cards=figures.cards(results),
            latency_plot=figures.trade_off(results, "latency"),
            memory_plot=figures.trade_off(results, "memory"),
            difference_plot=figures.difference_plot(results),
            loss_plots=figures.loss_plots(results),
            **_shared(results),
        )
    )


def markdown_page(results: Results) -> str:
    """The same verdict and tables as Markdown, for a repository or a pull request."""
    text = (
        _environment(html=False)
        .get_template("README.md.jinja")
        .render(results=results, tables=tables.all_tables(results), **_shared(results))
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def inline_json(value: Any) -> str:
    """JSON that can stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def markdown_escaped(value: Any) -> str:
    """Text that cannot leave its line or table cell, and that Markdown shows as it is."""
    text = " ".join(str(value).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*|~])", r"\\\1", text)
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\_", text)  # between letters it marks nothing
    return re.sub(r"\](?=[\[(:])", r"\]", text)  # a bracket is a link only before these


def _shared(results: Results) -> dict[str, Any]:
    data = results["data"]
    return {
        "scores": tables.scores_table(results),
        "seeds": tables.seeds_table(results),
        "paired": tables.differences_table(results),
        "savings": tables.savings_table(results),
        "benchmarks": tables.benchmark_tables(results),
        "lengths": tables.lengths_table(results),
        "groups": tables.group_tables(results),
        "training": training_table(results),
        "stages": stages_table(results),
        "machines": machines_table(results),
        "data_facts": tables.facts_table("data", "Data", data["statistics"]),
        "quarantine": tables.facts_table(
            "quarantine", "Put aside", data["quarantine_reasons"], "reason"
        ),
        "label_facts": tables.facts_table("labels", "Labels", results["labels"] or {}),
        "version_facts": tables.facts_table("versions", "Versions", results["versions"], "package"),
        "recipe_yaml": yaml.safe_dump(results["recipe"], sort_keys=False, allow_unicode=True),
    }


def training_table(results: Results) -> tables.Table:
    """Steps, time and final loss of every trained model."""
    rows = []
    for model, found in results["training"].items():
        curve = found["curve"]
        speeds = [value for value in curve["tokens_per_second"] if value is not None]
        loss = next((value for value in reversed(curve["loss"]) if value is not None), None)
        rows.append(
            (
                tables.Cell(model),
                tables.Cell(count(found["steps"])),
                tables.Cell(duration(found["seconds"])),
                tables.Cell(count(sum(speeds) / len(speeds)) if speeds else MISSING),
                tables.Cell(decimal(loss, 4)),
            )
        )
    columns = ("model", "steps", "time", "tokens/s", "last loss")
    note = "Losses of different arms are different objectives; compare scores, not losses."
    return tables.Table("training", "Training", columns, tuple(rows), note)


def stages_table(results: Results) -> tables.Table:
    """The stages the report rests on."""
    timed = any(stage.get("seconds") is not None for stage in results["stages"])
    rows = []
    for stage in results["stages"]:
        cells = [
            tables.Cell(str(stage.get("kind"))),
            tables.Cell(str(stage.get("title") or "")),
            tables.Cell(str(stage.get("fingerprint"))),
        ]
        if timed:
            origin = "from an earlier run" if stage.get("cached") else ""
            cells.append(tables.Cell(duration(stage.get("seconds")), origin))
        rows.append(tuple(cells))
    columns = ("stage", "of", "fingerprint", *(["time"] if timed else []))
    return tables.Table("stages", "Stages", columns, tuple(rows))


def machines_table(results: Results) -> tables.Table:
    """On what every arm was benchmarked."""
    rows = []
    for arm, cost in results["costs"].items():
        machine = cost.get("machine") or {}
        memory = machine.get("memory_gib")
        rows.append(
            (
                tables.Cell(arm),
                tables.Cell(str(machine.get("device", MISSING))),
                tables.Cell(f"{machine.get('cpu', MISSING)}", f"{machine.get('cores', '?')} cores"),
                tables.Cell(str(machine.get("threads", MISSING))),
                tables.Cell(data_size(memory * 1024**3) if memory else MISSING),
                tables.Cell(str(cost.get("precision"))),
                tables.Cell(str(cost.get("runtime"))),
            )
        )
    columns = ("arm", "device", "processor", "threads", "memory", "precision", "runtime")
    return tables.Table("machines", "Where it was measured", columns, tuple(rows))


def _environment(*, html: bool) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_text),
        autoescape=html,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": count,
        "percent": percent,
        "md": markdown_escaped,
        "tight": lambda text: _TOGETHER.sub("\N{NO-BREAK SPACE}", text),
    }
    return environment


def _text(name: str) -> str:
    return (FOLDER / name).read_text(encoding="utf-8")
