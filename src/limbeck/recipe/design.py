"""The design of an ablation: its axes with their levels, and which arm stands for which point.

A point that changes nothing of the base is the base's student, and a control that is equal to
another is that one, so that nothing is trained twice and each comparison knows its partner.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from limbeck.errors import UsageError
from limbeck.recipe.ablation import CONTROL, LISTED, Point, value_text
from limbeck.recipe.arms import control_overrides, override
from limbeck.recipe.recipe import Recipe

STUDENT = "student"
"""The arm of the base point."""


@dataclass(frozen=True)
class Axis:
    """A field that differs between points, or the list of points.

    Attributes:
        path: the dotted field; "arm" for the list.
        levels: as text, the base among them where it is compared.
        numbers: the levels where all are numbers, for plots; else None.
        base: the level that is the recipe's own; None where that is no level.
        base_text: the recipe's own value.
        listed: whether it is the list of points.
    """

    path: str
    levels: tuple[str, ...]
    numbers: tuple[float, ...] | None
    base: int | None
    base_text: str
    listed: bool = False


@dataclass(frozen=True)
class Placed:
    """A point: the arm that stands for it, its control, and its level on each axis it is on.

    `as_base` says that its model is built like the base's, so that it costs the same to run.
    """

    name: str
    arm: str
    control: str | None
    texts: Mapping[str, str]
    levels: Mapping[str, int | None]
    as_base: bool = True
    changes: tuple[str, ...] = field(default=())


@dataclass(frozen=True)
class Design:
    """The axes and points of an ablation, the base first."""

    axes: tuple[Axis, ...]
    points: tuple[Placed, ...]
    one_at_a_time: bool
    controls: bool

    def contexts(self, axis: Axis) -> list[dict[int, str]]:
        """Level -> arm, for every combination of the other axes in which all levels were trained.

        Differences between levels are taken inside of a context, so that they are of this axis.
        """
        others = [one.path for one in self.axes if one.path != axis.path and not one.listed]
        found: dict[tuple[Any, ...], dict[int, str]] = {}
        for point in self.points:
            level = point.levels.get(axis.path)
            if level is None:
                continue
            around = () if axis.listed else tuple(point.levels.get(path) for path in others)
            found.setdefault(around, {})[level] = point.arm
        return [one for one in found.values() if len(one) == len(axis.levels)]


def ablated(recipe: Recipe) -> dict[str, Recipe]:
    """The arms that an ablation adds to a recipe, with their recipes; none without `ablate`."""
    found: dict[str, Recipe] = {}
    for one in _expanded(recipe):
        if one.arm != STUDENT:
            found[one.arm] = one.recipe
        if one.control is not None and one.own_control is not None:
            found[one.control] = one.own_control
    return found


def design_of(recipe: Recipe) -> Design | None:
    """The design of a recipe's ablation; None where it has none.

    Raises:
        UsageError: two points are the same recipe, or an override does not fit the schema.
    """
    if recipe.ablate is None:
        return None
    expanded = _expanded(recipe)
    base = _dumped(recipe)
    single = recipe.ablate.one_at_a_time or len(recipe.ablate.grid) == 1
    axes: list[Axis] = []
    keys: dict[str, list[str]] = {}
    for path, values in recipe.ablate.grid.items():
        own = _key(base, path)
        made = [
            next(_key(one.dumped, path) for one in expanded if one.has(path, value))
            for value in values
        ]
        texts, levels = [value_text(value) for value in values], list(values)
        if single and own not in made:
            made, levels = [own, *made], [json.loads(own), *levels]
            texts = [value_text(json.loads(own)), *texts]
        if len(set(texts)) < len(texts):
            texts = [json.dumps(value) for value in levels]
        base_level = made.index(own) if own in made else None
        text = texts[base_level] if base_level is not None else value_text(json.loads(own))
        axes.append(Axis(path, tuple(texts), _numbers(levels), base_level, text))
        keys[path] = made
    if listed := [one for one in expanded if one.point.listed]:
        names = (STUDENT, *(one.point.name for one in listed))
        axes.append(Axis(LISTED, names, None, 0, STUDENT, listed=True))

    def placed(name: str, dumped: dict[str, Any], arm: str, control: str | None) -> Placed:
        levels: dict[str, int | None] = {}
        texts: dict[str, str] = {}
        for axis in axes:
            if not axis.listed:
                key = _key(dumped, axis.path)
                known = keys[axis.path]
                levels[axis.path] = known.index(key) if key in known else None
                level = levels[axis.path]
                texts[axis.path] = (
                    value_text(json.loads(key)) if level is None else axis.levels[level]
                )
        as_base = dumped["student"] == base["student"]
        return Placed(name, arm, control, texts, levels, as_base)

    points = [placed(STUDENT, base, STUDENT, "control")]
    if listed:
        points[0] = replace(
            points[0],
            texts={**points[0].texts, LISTED: STUDENT},
            levels={**points[0].levels, LISTED: 0},
        )
    for one in expanded:
        changes = tuple(dict.fromkeys(path.split(".")[0] for path in one.point.overrides))
        own = replace(placed(one.point.name, one.dumped, one.arm, one.control), changes=changes)
        if one.point.listed:  # off the grid: compared with the base as a whole
            level = axes[-1].levels.index(one.point.name)
            own = replace(own, levels={LISTED: level}, texts={**own.texts, LISTED: one.point.name})
        elif one.arm == STUDENT:
            continue
        points.append(own)
    return Design(tuple(axes), tuple(points), single, recipe.ablate.controls)


@dataclass(frozen=True)
class _Expanded:
    point: Point
    recipe: Recipe
    dumped: dict[str, Any]
    arm: str
    control: str | None
    own_control: Recipe | None

    def has(self, path: str, value: Any) -> bool:
        return not self.point.listed and self.point.overrides.get(path, _expanded) is value


def _expanded(recipe: Recipe) -> list[_Expanded]:
    ablate = recipe.ablate
    if ablate is None:
        return []
    known: list[tuple[str, Recipe]] = [(STUDENT, recipe)]
    controls: list[tuple[str, Recipe]] = [("control", _control(recipe))]
    found: list[_Expanded] = []
    for point in ablate.all_points(recipe.arms):
        section = "arms" if point.name in recipe.arms else "ablate"
        made = override(recipe, dict(point.overrides), where=f"{section}.{point.name}")
        same = next((name for name, other in known if other == made), None)
        if same is not None and (same != STUDENT or point.listed):
            raise UsageError(
                f"the points {same} and {point.name} are the same recipe",
                where=f"{section}.{point.name}",
                mend="leave one of them out",
            )
        arm = same or point.name
        known.append((arm, made))
        plain = _control(made)
        control = next((name for name, other in controls if other == plain), None)
        own = None
        if control is None and ablate.controls:
            control, own = f"{point.name}{CONTROL}", plain
            controls.append((control, plain))
        found.append(_Expanded(point, made, _dumped(made), arm, control, own))
    return found


def _control(recipe: Recipe) -> Recipe:
    return override(recipe, control_overrides(recipe), where="control")


def _dumped(recipe: Recipe) -> dict[str, Any]:
    return recipe.model_dump(mode="json", exclude={"ablate", "arms"})


def _key(dumped: Any, path: str) -> str:
    """The value of a field, in a form that is equal for equal values; null where there is none."""
    here: Any = dumped
    for name in path.split("."):
        if isinstance(here, list):
            items = cast("list[Any]", here)
            here = items[int(name)] if name.isdigit() and int(name) < len(items) else None
        elif isinstance(here, dict):
            here = cast("dict[str, Any]", here).get(name)
        else:
            here = None
    return json.dumps(here, sort_keys=True)


def _numbers(values: Sequence[Any]) -> tuple[float, ...] | None:
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) for value in values):
        return None
    return tuple(float(value) for value in values)
