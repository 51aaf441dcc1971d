"""The licences of data, teacher and student, as far as they are known; what is not known is said.

Looked up in this order: what the recipe says (`report.licences`), what the data stage recorded,
the model card of the weights on this machine. Nothing is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from limbeck.errors import LimbeckError
from limbeck.models.source import model_folder

UNKNOWN = "not recorded"


def licences_of(recipe: Mapping[str, Any], data_facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row for the data and for each model that the student comes from.

    Returns:
        Rows of `of` (data, teacher, student), `name`, `licence` (None where it is not known) and
        `source` (where it was found).
    """
    stated = (recipe.get("report") or {}).get("licences") or {}
    data = recipe.get("data") or {}
    rows = [
        _row("data", str(data.get("source", "data")), data_facts.get("licence"), "the data stage")
    ]
    for of in ("teacher", "student"):
        section = recipe.get(of) or {}
        if section.get("inherit"):
            rows += [{**row, "of": of} for row in rows if row["of"] == "teacher"]
            continue
        members = [m for m in section.get("teachers") or () if isinstance(m, Mapping)]
        for member in members or [section]:
            rows += _model_rows(of, member)
    return [
        {**row, "licence": stated[row["of"]], "source": "the recipe"}
        if row["of"] in stated
        else row
        for row in rows
    ]


def _model_rows(of: str, section: Mapping[str, Any]) -> list[dict[str, Any]]:
    if section.get("build"):
        name = f"{section['build'].get('family', 'a model')}, made here"
        return [_row(of, name, "none: no weights of others", "random weights of a configuration")]
    if compose := section.get("compose"):
        parts = [(compose[p], compose.get(f"{p}_revision")) for p in ("vision", "language")]
    elif section.get("model"):
        parts = [(section["model"], section.get("revision"))]
    else:
        return [_row(of, "not recorded", None, "")]
    return [_row(of, name, _of_card(name, revision), "its model card") for name, revision in parts]


def _of_card(name: str, revision: str | None) -> str | None:
    """The licence in the front matter of the README.md beside the weights."""
    try:
        text = (Path(model_folder(name, revision)) / "README.md").read_text(encoding="utf-8")
        if not text.startswith("---"):
            return None
        found = yaml.safe_load(text.split("---", 2)[1])
    except (LimbeckError, OSError, ValueError, yaml.YAMLError):
        return None  # no card, or one that cannot be read, tells nothing
    if not isinstance(found, dict):
        return None
    licence = found.get("license")
    if licence == "other":
        licence = found.get("license_name") or licence
    return licence if isinstance(licence, str) else None


def _row(of: str, name: str, licence: Any, source: str) -> dict[str, Any]:
    known = str(licence) if licence else None
    return {"of": of, "name": name, "licence": known, "source": source if known else ""}
