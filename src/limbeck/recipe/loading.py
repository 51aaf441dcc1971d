"""A recipe file and `--set a.b=c` to one frozen, typed Recipe; errors name the place in the file.

This is where a recipe's mistakes turn into one line each: an unknown key gets its path, its line
in the file and the nearest known key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar, cast, overload

from pydantic import ValidationError

from limbeck.errors import UsageError
from limbeck.recipe.component import Section, misfit
from limbeck.recipe.recipe import Recipe
from limbeck.recipe.yaml_text import Places, parse_value, parse_yaml

ALTERNATIVES = (
    ("steps", "epochs"),
    ("samples_per_step", "tokens_per_step"),
    ("model", "build", "compose", "inherit"),
)
"""Fields of one section that exclude one another: overriding one takes the others out."""

Edit = Callable[[dict[str, Any]], None]
SchemaType = TypeVar("SchemaType", bound=Section)


@overload
def load_recipe(
    path: str | Path, overrides: Iterable[str] = (), edit: Edit | None = None
) -> Recipe: ...


@overload
def load_recipe(
    path: str | Path,
    overrides: Iterable[str] = (),
    edit: Edit | None = None,
    *,
    schema: type[SchemaType],
) -> SchemaType: ...


def load_recipe(
    path: str | Path,
    overrides: Iterable[str] = (),
    edit: Edit | None = None,
    *,
    schema: type[Section] = Recipe,
) -> Section:
    """Read a recipe file, apply `a.b=c` overrides, then `edit`, which changes the mapping in place.

    Args:
        path: of the file.
        overrides: each a dotted path and a value.
        edit: changes the mapping, None leaves it.
        schema: what the file describes.

    Raises:
        UsageError: the file cannot be read, is no YAML mapping, or does not fit the schema.
    """
    overrides = tuple(overrides)
    values, root = parse_yaml(_read(Path(path)), str(path))
    for override in overrides:
        apply_override(values, override)
    if edit is not None:
        edit(values)
    return _validated(values, Places(str(path), root, overrides), schema)


def recipe_from(values: dict[str, Any], *, places: Places | str = "recipe") -> Recipe:
    """Validate a mapping into a Recipe.

    Raises:
        UsageError: the first misfit, with its path, its line where known, and the mend.
    """
    return _validated(values, Places(places) if isinstance(places, str) else places, Recipe)


def _validated(values: dict[str, Any], places: Places, schema: type[SchemaType]) -> SchemaType:
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        found = misfit(error, schema, values)
        path = found.where.split(".") if found.where else []
        raise UsageError(found.what, where=places.of(path), mend=found.mend) from error


def apply_override(values: dict[str, Any], override: str) -> None:
    """Set one field, `losses.0.temperature=2`, in place; the value is read as YAML.

    Raises:
        UsageError: not of the form path=value, or the path runs through something else than
            a mapping or an existing list item.
    """
    dotted, equals, text = override.partition("=")
    dotted = dotted.strip()
    if not equals or not all(dotted.split(".")):
        raise UsageError(f"{override!r} is not of the form a.b=value", where="--set")
    where = f"--set {override}"
    set_field(values, dotted, parse_value(text, where), where=where)


def set_field(values: dict[str, Any], dotted: str, value: Any, *, where: str) -> None:
    """Set `a.b.0.c` in nested mappings and lists; missing mappings are made.

    A field that excludes others (see ALTERNATIVES) takes their place.
    """
    target: Any = values
    *parents, last = dotted.split(".")
    for name in parents:
        target = _child(target, name, where)
    if isinstance(target, list):
        items = cast("list[Any]", target)
        items[_index(items, last, where)] = value
    elif isinstance(target, dict):
        fields = cast("dict[str, Any]", target)
        if value is not None:
            for group in ALTERNATIVES:
                for other in group if last in group else ():
                    fields.pop(other, None)
        fields[last] = value
    else:
        raise UsageError(f"{dotted!r} runs through a plain value", where=where)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        mend = "limbeck new writes one" if isinstance(error, FileNotFoundError) else None
        raise UsageError(
            f"cannot read the recipe ({error.strerror})", where=str(path), mend=mend
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError("the recipe is not UTF-8 text", where=str(path)) from error
    except ValueError as error:
        raise UsageError(f"not a file name ({error})", where=repr(str(path))) from error


def _child(target: Any, name: str, where: str) -> Any:
    if isinstance(target, list):
        items = cast("list[Any]", target)
        return items[_index(items, name, where)]
    if not isinstance(target, dict):
        raise UsageError(f"{name!r} is below a plain value", where=where)
    fields = cast("dict[str, Any]", target)
    if fields.get(name) is None:
        fields[name] = {}
    return fields[name]


def _index(items: list[Any], name: str, where: str) -> int:
    if not (name.isascii() and name.isdigit() and len(name) < 10 and int(name) < len(items)):
        raise UsageError(f"{name!r} is not an item of a list of {len(items)}", where=where)
    return int(name)
