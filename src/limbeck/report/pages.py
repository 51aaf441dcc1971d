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
from markupsafe import Markup

from limbeck.report import figures
from limbeck.report.format import count, percent
from limbeck.report.plots import colours
from limbeck.report.sections import basis, sections_of
from limbeck.report.table import Results

FOLDER = files("limbeck.report")
_TOGETHER = re.compile(
    r"(?<=\d) (?=%|[KMGT]iB\b|[KMB]\b|(?:ms|s|min|h|seeds?|samples?)\b)|(?<=\d,) (?=[\d.\u2212]+\])"
)
"""Spaces at which a number would be torn from its unit, or an interval in two."""


def html_page(results: Results, gallery: Mapping[str, Any]) -> str:
    """The whole page: style, script, plots and images inside; it asks the network for nothing."""
    script = script_of("page.js", "gallery.js")
    arms = colours(arm["arm"] for arm in results["evaluation"]["arms"])
    models = {model["id"]: arms.get(model["arm"], "") for model in results["evaluation"]["models"]}
    return (
        environment(html=True)
        .get_template("page.html.jinja")
        .render(
            results=results,
            policy=policy_for(script),
            style=Markup(text_of("page.css")),
            script=Markup(script),
            gallery_json=Markup(inline_json({**gallery, "colours": arms})),
            colours={**models, **arms},
            cards=figures.cards(results),
            basis=basis(results),
            sections=sections_of(results, gallery),
        )
    )


def script_of(*names: str) -> str:
    """Several script files as the one script of a page."""
    return "\n".join(text_of(name) for name in names)


def policy_for(script: str) -> str:
    """A content security policy under which this script runs and nothing else does."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def markdown_page(results: Results, gallery: Mapping[str, Any]) -> str:
    """The same verdict and tables as Markdown, for a repository or a pull request."""
    sections = [one for one in sections_of(results, gallery) if one.in_markdown]
    template = environment(html=False).get_template("README.md.jinja")
    text = template.render(results=results, basis=basis(results), sections=sections)
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


def environment(*, html: bool) -> jinja2.Environment:
    """Where templates are found, and what they may use."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(text_of),
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


def text_of(name: str) -> str:
    """A file beside this one: a template, the style sheet, the script."""
    return (FOLDER / name).read_text(encoding="utf-8")
