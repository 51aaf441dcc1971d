"""The recipe's reference page, read off the classes: their docstrings, fields, defaults, limits."""

from __future__ import annotations

import inspect
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, JsonValue
from pydantic.fields import FieldInfo
from pydantic_core import to_json

from limbeck.recipe.component import Component, component_class, component_names
from limbeck.recipe.recipe import Recipe
from limbeck.recipe.schema import family_of

INTRODUCTION = """# Recipe reference

Rendered by `make docs` from the classes that read a recipe; do not edit it by hand.

A recipe is a YAML file by the rules of YAML 1.2: `1e-4` is a number, only `true` and `false` are
booleans. An unknown key is an error that names its line. `--set a.b=c` overrides a field
(`--set losses.0.temperature=2`, `--set label.temperatures=[1,2]`); overriding one of several fields
that exclude one another, such as `steps` and `epochs`, takes the others out.

Where a component is chosen by a word (`kind`, `source`, `backend`), the word alone may stand for
the mapping, and `package.module:Class` names a class of your own."""

FAMILIES = {
    "limbeck.data.sources": ("Data sources", "data"),
    "limbeck.teachers": ("Teachers", "teacher"),
    "limbeck.losses": ("Losses", "losses"),
    "limbeck.metrics": ("Metrics", "evaluate.metrics"),
}
"""A component package, its title, and where the recipe chooses from it."""

HEADER = ["| field | type | default | meaning |", "|---|---|---|---|"]


def reference_page() -> str:
    """The reference of every field, as Markdown."""
    page = _Page()
    page.chapter(Recipe, "The recipe", 2)
    for package, (title, path) in FAMILIES.items():
        page.family(package, title, path)
    return "\n".join([INTRODUCTION, *page.lines])


class _Page:
    """The lines so far, and where each section was described."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._described: dict[type[BaseModel], str] = {}
        self._waiting: list[type[BaseModel]] = []
        self._shared: set[str] = set()

    def family(self, package: str, title: str, path: str) -> None:
        """All components of a folder; what all of them have stands once, above them."""
        classes = {name: component_class(package, name) for name in component_names(package)}
        rows = [
            {name: self._row(name, info, path) for name, info in _options(cls).items()}
            for cls in (classes.values() if len(classes) > 1 else ())
        ]
        shared = [
            row
            for row in (rows[0].values() if rows else ())
            if all(row in r.values() for r in rows)
        ]
        self._shared = set(shared)
        self.lines += ["", f"## {title}", "", f"In the recipe: `{path}`."]
        if shared:
            self.lines += ["", "All of them have:", "", *HEADER, *shared]
        self._sections(3)
        for name, cls in classes.items():
            self.chapter(cls, f"`{name}`", 3, path)
        self._shared = set()

    def chapter(self, model: type[BaseModel], title: str, level: int, prefix: str = "") -> None:
        """One class: its docstring, a table of its fields, then the sections inside it."""
        manual = inspect.cleandoc(model.__doc__ or "")
        self.lines += ["", f"{'#' * level} {title}", "", manual]
        rows = [self._row(name, info, prefix) for name, info in _options(model).items()]
        rows = [row for row in rows if row not in self._shared]
        if rows:
            self.lines += ["", *HEADER, *rows]
        self._sections(3 if level == 2 else 4)

    def _sections(self, level: int) -> None:
        """The sections that the last table mentioned for the first time."""
        waiting, self._waiting = self._waiting, []
        for section in waiting:
            path = self._described[section]
            self.chapter(section, f"`{path}`", level, path)

    def _row(self, name: str, info: FieldInfo, prefix: str) -> str:
        package = _package(info)
        section = next((kind for kind in _kinds(info.annotation) if _is_section(kind)), None)
        if package is not None:
            title = FAMILIES[package][0]
            many = "list, " if get_origin(info.annotation) is tuple else ""
            kind = f"{many}see [{title}](#{title.lower().replace(' ', '-')})"
        elif section is not None:
            if section not in self._described:
                self._described[section] = f"{prefix}.{name}".strip(".")
                self._waiting.append(section)
            path = self._described[section]
            kind = f"section `{path}`"
        else:
            kind = f"`{_type(info.annotation)}`"
        default = "required" if info.is_required() else _default(info)
        limits = ", ".join(_limits(info))
        meaning = "; ".join(text for text in (info.description, limits) if text)
        cells = (f"`{name}`", kind, default, meaning)
        return "| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells) + " |"


def _options(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields of a class, without the word that chooses it."""
    fields = dict(model.model_fields)
    if issubclass(model, Component):
        del fields[model.selector]
    return fields


def _default(info: FieldInfo) -> str:
    if info.default_factory is not None:
        return "its defaults"
    value = info.get_default()
    return "its defaults" if isinstance(value, BaseModel) else f"`{to_json(value).decode()}`"


def _limits(info: FieldInfo) -> Iterator[str]:
    signs = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "min_length": "length ≥"}
    for item in info.metadata:
        for name, sign in signs.items():
            limit = getattr(item, name, None)
            if limit is not None:
                yield f"{sign} {limit}"


def _type(annotation: Any) -> str:
    """An annotation in a reader's words."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(args[0])
    if origin is Literal:
        return " | ".join(to_json(a).decode() if isinstance(a, bool) else str(a) for a in args)
    if origin in (Union, types.UnionType):
        return " | ".join(_type(arg) for arg in args)
    if origin in (tuple, list):
        inner = [_type(arg) for arg in args if arg is not ...]
        fixed = origin is tuple and ... not in args
        return f"[{', '.join(inner)}]" if fixed else f"list of {inner[0]}"
    if origin is dict:
        return f"mapping of {_type(args[0])} to {_type(args[1])}"
    names: dict[Any, str] = {str: "text", int: "integer", float: "number", bool: "boolean"}
    names |= {type(None): "null", JsonValue: "any value"}
    return names.get(annotation, "mapping" if origin is dict else str(annotation.__name__).lower())


def _kinds(annotation: Any) -> list[Any]:
    """An annotation and all annotations inside it."""
    inner = [found for arg in get_args(annotation) for found in _kinds(arg)]
    return [annotation, *inner]


def _is_section(kind: Any) -> bool:
    if not isinstance(kind, type):
        return False
    return issubclass(kind, BaseModel) and not issubclass(cast("type[Any]", kind), Component)


def _package(info: FieldInfo) -> str | None:
    """The package whose components a field chooses from."""
    for item in [*info.metadata, *_kinds(info.annotation)]:
        if isinstance(item, BeforeValidator):
            family = family_of(item.func)
            if family is not None:
                return family[0]
    return None
