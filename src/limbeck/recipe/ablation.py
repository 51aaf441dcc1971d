"""The recipe's `ablate` section: points from grids and lists, each an arm with a short name.

A grid's axis is a dotted field with its values; a listed point is a name with its overrides, as in
`arms`. What the points are compared with is the recipe as it stands, the base.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any, cast

from pydantic import Field, JsonValue, model_validator

from limbeck.errors import UsageError
from limbeck.recipe.component import Section

LISTED = "arm"
"""The axis of listed points; its levels are their names."""

CONTROL = "_control"
"""Ends the name of an arm that is another point's control."""

MAX_NAME_CHARACTERS = 80
MAX_VALUE_CHARACTERS = 24

Overrides = dict[str, JsonValue]


@dataclass(frozen=True)
class Point:
    """One combination of values: the arm's name, and what it overrides of the base."""

    name: str
    overrides: Mapping[str, JsonValue]
    listed: bool = False


class Ablate(Section):
    """Students that differ from the recipe's in chosen fields, trained with the same seeds."""

    grid: dict[str, Annotated[tuple[JsonValue, ...], Field(min_length=1)]] = Field(
        default={},
        description="dotted field -> values; every combination is a point",
    )
    points: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$")], Overrides] = (
        Field(
            default={},
            description="further points: name -> overrides, each a dotted path and its value; "
            "those of `arms` are points too",
        )
    )
    one_at_a_time: bool = Field(
        default=False, description="vary one axis, the others as in the recipe; else all together"
    )
    controls: bool = Field(
        default=False,
        description="train plain cross-entropy at every point too, whose data, labels or training "
        "differ from the base",
    )
    max_points: int = Field(default=64, gt=0, description="more are refused")

    @model_validator(mode="after")
    def _can_be_made(self) -> Ablate:
        for path in self.grid:
            if not all(path.split(".")):
                raise UsageError(f"{path!r} is no dotted field", where="grid")
            for other in self.grid:
                if other.startswith(f"{path}."):
                    raise UsageError(f"{other} lies inside of {path}", where=f"grid.{other}")
        for path, values in self.grid.items():
            texts = [json.dumps(value, sort_keys=True) for value in values]
            if len(set(texts)) < len(texts):
                raise UsageError("a value is listed twice", where=f"grid.{path}")
        lengths = [len(values) for values in self.grid.values()]
        singly = sum(lengths)
        total = singly if self.one_at_a_time else math.prod(lengths) if lengths else 0
        if total + len(self.points) > self.max_points:
            less = "" if self.one_at_a_time else f"set one_at_a_time ({singly} points), "
            raise UsageError(
                f"{total + len(self.points):,} points, each a training for every seed",
                where="grid",
                mend=f"{less}list fewer values, or raise ablate.max_points ({self.max_points})",
            )
        return self

    def all_points(self, arms: Mapping[str, Overrides]) -> list[Point]:
        """The grid's points, the listed ones, and `arms`, in this order.

        Raises:
            UsageError: two have one name.
        """
        places = {path: list(range(len(own))) for path, own in self.grid.items()}
        if self.one_at_a_time:
            chosen = [{path: place} for path, own in places.items() for place in own]
        else:
            combined = product(*places.values()) if places else ()
            chosen = [dict(zip(places, one, strict=True)) for one in combined]
        short, words = short_names(list(self.grid)), {p: _words(v) for p, v in self.grid.items()}
        found: list[Point] = []
        for number, one in enumerate(chosen, 1):
            name = "_".join(f"{short[path]}-{words[path][place]}" for path, place in one.items())
            if len(name) > MAX_NAME_CHARACTERS or not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name):
                name = f"point-{number}"
            found.append(Point(name, {path: self.grid[path][i] for path, i in one.items()}))
        listed = [*self.points.items(), *arms.items()]
        found += [Point(name, overrides, listed=True) for name, overrides in listed]
        names = [point.name for point in found]
        for name in names:
            if names.count(name) > 1:
                raise UsageError(
                    "two points have this name", where=f"ablate.{name}", mend="rename the listed"
                )
        return found


def points_in(text: str, value: Any) -> dict[str, Overrides]:
    """Listed points of a file: a mapping of names to overrides, or a list of overrides.

    Args:
        text: where it is from, for errors.
        value: as YAML gave it.

    Raises:
        UsageError: it is neither.
    """
    mend = "write `name: {training.steps: 80}`, or a list of such overrides"
    if isinstance(value, list):
        rows = cast("list[Any]", value)
        if any(not row or not isinstance(row, dict) for row in rows):
            raise UsageError("an item is no mapping of fields to values", where=text, mend=mend)
        paths = list(dict.fromkeys(path for row in rows for path in row))
        short = short_names(paths)
        named: dict[str, Overrides] = {}
        for number, row in enumerate(cast("list[Overrides]", rows), 1):
            name = "_".join(f"{short[path]}-{_words([own])[0]}" for path, own in row.items())
            if name in named or len(name) > MAX_NAME_CHARACTERS or not name[0].isalnum():
                name = f"point-{number}"
            named[name] = row
        return named
    if not isinstance(value, dict):
        raise UsageError("is no list of points", where=text, mend=mend)
    return cast("dict[str, Overrides]", value)


def short_names(paths: Sequence[str]) -> dict[str, str]:
    """For each dotted path the shortest end that no other has and that is no place in a list."""
    found: dict[str, str] = {}
    for path in paths:
        parts = path.split(".")
        ends = [".".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        free = [
            end
            for end in ends
            if not end.partition(".")[0].isdigit()
            and not any(f".{other}".endswith(f".{end}") for other in paths if other != path)
        ]
        found[path] = free[0] if free else path
    return found


def value_text(value: JsonValue) -> str:
    """A value as tables and sentences show it."""
    if isinstance(value, str):
        return value or '""'
    if isinstance(value, dict):
        words = (value[key] for key in ("kind", "model", "source", "backend") if key in value)
        word = next(words, None)
        if isinstance(word, str):
            return word
    if isinstance(value, list) and value:
        return ", ".join(value_text(item) for item in value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return json.dumps(value)


def _words(values: Sequence[JsonValue]) -> list[str]:
    """The values as parts of a file name, no two alike."""
    words = [re.sub(r"[^A-Za-z0-9.]+", "-", _signed(value_text(v))).strip("-.") for v in values]
    words = [word if 0 < len(word) <= MAX_VALUE_CHARACTERS else "" for word in words]
    return [
        word if word and words.count(word) == 1 else f"v{number}"
        for number, word in enumerate(words, 1)
    ]


def _signed(text: str) -> str:
    return f"minus{text[1:]}" if re.fullmatch(r"-[\d.]+(e.*)?", text) else text
