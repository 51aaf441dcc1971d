"""Components: the parts of a recipe that are chosen by a word, and the word is the file name.

`kind: divergence` under `losses` is the class in `limbeck/losses/divergence.py`; a user's own
class is `kind: my_package.my_module:MyLoss`. The class is its own configuration: its fields are
the recipe's options, its docstring the manual.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
import re
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, cast, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from limbeck.errors import UsageError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


Seed = Annotated[int, Field(ge=0, lt=2**32)]


class Section(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,  # it may be a key, and a traceback would show it
    )

    @model_validator(mode="before")
    @classmethod
    def _no_boolean_as_number(cls, value: Any) -> Any:
        """Pydantic reads true as 1; in a recipe that is a slip."""
        given = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
        for name, item in given.items():
            info = cls.model_fields.get(name)
            items = cast("list[Any]", item) if isinstance(item, (list, tuple)) else [item]
            if info and any(isinstance(x, bool) for x in items) and _is_number(info.annotation):
                raise UsageError("must be a number, not a boolean", where=name)
        return cast("Any", value)


class Component(Section):
    """A part of a recipe whose class is found by a word.

    Subclasses that define a family (Loss, Source, ...) set `selector`, the recipe key that holds
    the word; concrete classes declare that key as a Literal field.
    """

    selector: ClassVar[str] = "kind"


def component_names(package: str) -> list[str]:
    """The words that a package offers: its public modules that hold a component."""
    module = importlib.import_module(package)
    return [
        info.name
        for info in pkgutil.iter_modules(module.__path__)
        if not info.ispkg and _component_in(f"{package}.{info.name}") is not None
    ]


def component_class(package: str, word: str) -> type[Component]:
    """The class that `word` names in `package`, or the user's own `module:Class`.

    Raises:
        UsageError: no such word (with the nearest one), or the user's class is not a component.
    """
    if ":" in word:
        return _own_class(package, word)
    if re.fullmatch(r"[a-z]\w*", word, re.ASCII):
        found = _component_in(f"{package}.{word}")
        if found is not None:
            return found
    names = component_names(package)
    close = difflib.get_close_matches(word, names, n=1)
    mend = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(names)}"
    raise UsageError(f"{word!r} is not known", mend=mend)


def build_component(
    package: str, selector: str, value: Any, without: str | None = None
) -> Component:
    """Turn a recipe's mapping (or bare word) into the component it names, any but `without`.

    Raises:
        UsageError: with `where` set to the path below this component.
    """
    if isinstance(value, Component):
        return value
    given = cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    if isinstance(value, str):
        given = {selector: value}
    word = given.get(selector)
    if not isinstance(word, str):
        names = ", ".join(component_names(package))
        raise UsageError(f"needs the key {selector!r}", mend=f"choose one of {names}")
    if word == without:
        raise UsageError(f"{word} cannot stand in {word}", where=selector)
    try:
        cls = component_class(package, word)
    except UsageError as error:
        raise UsageError(error.what, where=selector, mend=error.mend) from error
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        raise misfit(error, cls, given) from error


def component_field(package: str, selector: str, without: str | None = None) -> BeforeValidator:
    """For `Annotated[SerializeAsAny[Component], ...]`: a recipe field chosen by a word.

    A component whose fields are components of its own folder has itself as `without`.
    """
    if without is None:
        return BeforeValidator(partial(build_component, package, selector))
    return BeforeValidator(partial(build_component, package, selector, without=without))


def misfit(error: ValidationError, model: type[BaseModel], values: dict[str, Any]) -> UsageError:
    """One misfit of a validation as one line; `where` is the path below `model`.

    An unknown key goes first: a misspelt key is also a missing one, and the spelling is the cause.
    """
    errors = error.errors(include_url=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    path = _path_in(first["loc"], values)
    message, mend = _plain(first), None
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UsageError):
        message, mend = cause.what, cause.mend
        path += cause.where.split(".") if cause.where else []
    elif first["type"] == "extra_forbidden":
        known = _known_keys(model, path[:-1])
        close = difflib.get_close_matches(path[-1], known, n=1)
        message = f"unknown key {path[-1][:80]!r}"
        mend = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
    elif first["type"] == "missing":
        message = "is missing"
    else:
        same = [_plain(e) for e in errors if _path_in(e["loc"], values) == path]
        message = " or ".join(dict.fromkeys(same))
        if not isinstance(first["input"], (dict, list, tuple, BaseModel)):
            message += f" (got {str(first['input'])[:80]!r})"
    return UsageError(message, where=".".join(path) or None, mend=mend)


def _plain(error: ErrorDetails) -> str:
    """Pydantic's message in the recipe's words."""
    shapes = {
        "model_type": "must be a mapping",
        "dict_type": "must be a mapping",
        "tuple_type": "must be a list",
        "list_type": "must be a list",
        "string_type": "must be text (in quotes if it looks like a number)",
        "none_required": "must be null",
    }
    context = error.get("ctx", {})
    if error["type"] in ("too_short", "too_long"):
        least, count = error["type"] == "too_short", context.get("actual_length")
        limit = context["min_length" if least else "max_length"]
        return f"must have at {'least' if least else 'most'} {limit} item(s), not {count}"
    if error["type"] == "string_pattern_mismatch":
        return f"must match {context['pattern']}"
    message = error["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    return shapes.get(error["type"], message)


def _path_in(loc: Sequence[str | int], values: Any) -> list[str]:
    """A misfit's location without the steps that pydantic adds for unions and validators."""
    path: list[str] = []
    for step in loc:
        if isinstance(values, Mapping) and step in values:
            values = cast("Mapping[Any, Any]", values)[step]
        elif isinstance(values, (list, tuple)) and isinstance(step, int):
            items = cast("Sequence[Any]", values)
            values = items[step] if step < len(items) else None
        elif not re.fullmatch(r"[a-z]\w*", str(step)) or step in ("str", "int", "float", "bool"):
            continue
        path.append(str(step))
    return path


def _known_keys(model: type[BaseModel], loc: list[str]) -> list[str]:
    """Field names of the section that holds an unknown key."""
    for name in loc:
        info = model.model_fields.get(name)
        annotation = info.annotation if info else None
        for option in (annotation, *getattr(annotation, "__args__", ())):
            if isinstance(option, type) and issubclass(option, BaseModel):
                model = option
                break
    return sorted(model.model_fields)


def _is_number(annotation: Any) -> bool:
    """Whether a field takes int or float and no bool, itself or as the items of a tuple."""
    kinds: set[Any] = {annotation}
    for _ in range(3):
        kinds |= {
            inner for kind in kinds for inner in get_args(kind) if isinstance(inner, Hashable)
        }
    return bool(kinds & {int, float}) and bool not in kinds


def _own_class(package: str, word: str) -> type[Component]:
    """A user's own class, given as `package.module:Class`."""
    module_name, _, class_name = word.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise UsageError(f"{word[:80]!r} is not of the form package.module:Class")
    try:
        found = getattr(importlib.import_module(module_name), class_name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise UsageError(f"cannot import {word!r} ({error})") from error
    families = [
        value
        for value in vars(importlib.import_module(package)).values()
        if isinstance(value, type) and issubclass(value, Component) and value is not Component
    ]
    if not (isinstance(found, type) and any(issubclass(found, base) for base in families)):
        names = " or ".join(base.__name__ for base in families)
        raise UsageError(f"{word!r} is no subclass of {package}.{names}")
    own = cast("type[Component]", found)
    info = own.model_fields.get(own.selector)
    if info is None or info.annotation is not str:
        raise UsageError(f"{word!r} must declare the field `{own.selector}: str`")
    return own


def _component_in(module_name: str) -> type[Component] | None:
    """The one concrete component that a module defines, if the module exists and defines one."""
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == module_name:
            return None
        raise
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type)
        and issubclass(value, Component)
        and value.__module__ == module_name
        and value.selector in value.model_fields
    ]
    return found[0] if len(found) == 1 else None
