"""`limbeck ablate`: a recipe with points from the command line, and what its results say."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from limbeck.errors import UsageError
from limbeck.recipe import Recipe, load_recipe
from limbeck.recipe.ablation import points_in
from limbeck.recipe.design import design_of
from limbeck.recipe.yaml_text import parse_value

SUFFIX = "-ablation"
"""Ends the name of a run whose points came from the command line: the recipe's own report stays."""


@dataclass(frozen=True)
class Asked:
    """What the command line adds to a recipe.

    Attributes:
        grid: axes as `a.b=1,2`; one that the recipe has too is replaced.
        list_file: YAML with further points.
        one_at_a_time: vary one axis, the others as in the recipe.
        controls: train plain cross-entropy at every point where it would differ.
        seeds: in place of the recipe's, as `0,1,2`.
        metric: by which the effects are judged, in place of the recipe's headline.
    """

    grid: tuple[str, ...] = ()
    list_file: Path | None = None
    one_at_a_time: bool = False
    controls: bool = False
    seeds: str | None = None
    metric: str | None = None


def ablation_recipe(path: Path, overrides: Iterable[str], asked: Asked) -> Recipe:
    """The recipe with its points.

    Raises:
        UsageError: it has no point, an axis is not of the form a.b=1,2, or a value does not fit.
    """
    overrides = tuple(overrides)
    grid = dict(axis_of(text) for text in asked.grid)
    listed = {} if asked.list_file is None else _listed(asked.list_file)

    def edit(values: dict[str, Any]) -> None:
        section = values.get("ablate") or {}
        if not isinstance(section, dict):
            raise UsageError("must be a mapping", where="ablate")
        own = cast("dict[str, Any]", section)
        if grid:
            own = {**own, "grid": {**(own.get("grid") or {}), **grid}}
        if listed:
            own = {**own, "points": {**(own.get("points") or {}), **listed}}
        if asked.one_at_a_time:
            own = {**own, "one_at_a_time": True}
        if asked.controls:
            own = {**own, "controls": True}
        values["ablate"] = own
        if asked.seeds is not None:
            values["seeds"] = parse_value(f"[{asked.seeds}]", "--seeds")
        if asked.metric is not None:
            values["report"] = {**(values.get("report") or {}), "headline": asked.metric}
        named = any(text.partition("=")[0].strip() == "name" for text in overrides)
        if (grid or listed) and not named and isinstance(values.get("name"), str):
            values["name"] += SUFFIX

    recipe = load_recipe(path, overrides, edit)
    design = design_of(recipe)
    if design is None or len(design.points) < 2:
        raise UsageError(
            "there is no point to compare with the student",
            where=str(path),
            mend="give --grid losses.0.temperature=1,2 or --list FILE, or an `ablate` section",
        )
    metrics = [metric.model_dump()["kind"] for metric in recipe.evaluate.metrics]
    if asked.metric is not None and asked.metric not in metrics:
        raise UsageError(
            f"{asked.metric!r} is not evaluated",
            where="--metric",
            mend=f"choose from {', '.join(metrics)}, or add it to evaluate.metrics",
        )
    return recipe


def axis_of(text: str) -> tuple[str, list[Any]]:
    """`losses.0.temperature=1,2,4` as a dotted field and its values, read as YAML.

    Raises:
        UsageError: not of that form.
    """
    path, equals, values = text.partition("=")
    path = path.strip()
    if not equals or not all(path.split(".")) or not values.strip():
        raise UsageError(f"{text!r} is not of the form a.b=1,2,4", where="--grid")
    found = parse_value(f"[{values}]", f"--grid {text}")
    return path, cast("list[Any]", found)


def describe_design(recipe: Recipe) -> dict[str, Any]:
    """The points before anything is made, for `--plan`."""
    design = design_of(recipe)
    assert design is not None
    return {
        "axes": {axis.path: list(axis.levels) for axis in design.axes},
        "points": [{"name": p.name, "values": dict(p.texts)} for p in design.points],
        "seeds": list(recipe.seeds),
    }


def results_of(recipe: Recipe) -> dict[str, Any]:
    """What a finished run of the recipe found, its results.json."""
    path = Path(recipe.work) / "runs" / recipe.name / "results.json"
    return json.loads(path.read_text(encoding="utf-8"))


def describe_ablation(results: Mapping[str, Any]) -> str:
    """The table of points, the axes, and the sentences with their warnings, for a terminal."""
    from limbeck.report.ablation_tables import ablation_tables, plain_text

    parts = [
        f"{table.caption}\n{plain_text(table)}"
        for table in ablation_tables(results)
        if table.key != "ablation-metrics"
    ]
    parts.append("\n".join(results["ablation"]["sentences"]))
    parts += [f"mind: {text}" for text in results["ablation"]["warnings"]]
    return "\n\n".join(parts)


def _listed(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"cannot be read ({error})", where=str(path)) from error
    return points_in(str(path), parse_value(text, str(path)))
