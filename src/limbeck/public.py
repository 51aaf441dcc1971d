"""`limbeck public`: public benchmarks of a recipe's models, or of one model in a folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck import pipeline
from limbeck.errors import UsageError
from limbeck.recipe import Recipe, load_recipe, recipe_from
from limbeck.recipe.loading import apply_override


def run_public(
    source: Path,
    chosen: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    on_event: pipeline.Event | None = None,
) -> dict[str, Any]:
    """Run what is not there yet; the content of the stage's results.json, and its folder.

    Args:
        source: a recipe, or a folder that `from_pretrained` loads.
        chosen: fields of the section `public` that are set; None leaves them.
        overrides: as for every command.
        on_event: as for `pipeline.run`.

    Raises:
        UsageError: no tasks are named, by the recipe or here.
    """
    fields = [f"public.{name}={json.dumps(v)}" for name, v in chosen.items() if v is not None]
    if source.is_dir():
        if chosen.get("models"):
            raise UsageError("a folder is one model", where="--models", mend="leave it out")
        recipe = _recipe_of(source, [*fields, *overrides])
    else:
        recipe = load_recipe(source, [*fields, *overrides])
    if recipe.public is None:
        raise UsageError(
            "no tasks are named", where="public.tasks", mend="give --tasks, e.g. mmbench_en_dev"
        )
    result = pipeline.run(recipe, until="public", on_event=on_event)
    folder = next(Path(row["folder"]) for row in result.stages if row["kind"] == "public")
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    if source.is_dir():
        for model in found["models"]:
            model["id"] = str(source)
    return {**found, "folder": str(folder)}


def describe_public(found: Mapping[str, Any]) -> str:
    """The scores, a line each, and where they are."""
    lines: list[str] = []
    for model in found["models"]:
        lines.append(str(model["id"]))
        for row in model["results"]:
            spread = "no standard error"
            if row["low"] is not None:
                spread = f"[{row['low']:.4f}, {row['high']:.4f}]"
            name = f"{row['task']} {row['metric']}"
            lines.append(f"  {name:<40}{row['value']:8.4f}  {spread}  n {row['n']}")
    return "\n".join([*lines, f"lmms-eval {found['lmms_eval']}: {found['folder']}"])


def _recipe_of(folder: Path, overrides: Sequence[str]) -> Recipe:
    """A recipe whose untrained student is the folder's model; nothing else of it is run."""
    model = {"model": str(folder)}
    values: dict[str, Any] = {
        "name": f"public-{re.sub(r'[^A-Za-z0-9._-]', '-', folder.resolve().name)[:80]}",
        "data": {"source": "screens"},
        "teacher": {"backend": "transformers", **model},
        "student": model,
        "label": {"signal": "none"},
        "losses": [{"kind": "cross_entropy"}],
        "evaluate": {"models": ["baseline"]},
        "public": None,
    }
    for override in overrides:
        apply_override(values, override)
    return recipe_from(values, places=str(folder))
