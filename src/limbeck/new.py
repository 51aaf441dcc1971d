"""`limbeck new`: a commented recipe to start from, after a shipped one or for a data source."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic_core import to_jsonable_python

from limbeck.errors import UsageError
from limbeck.recipe.component import Component, component_class, component_names
from limbeck.recipe.recipe import NAME
from limbeck.store import write_atomic

SOURCES = "limbeck.data.sources"
FILE = "path"
"""The field that names a source's file; to be filled in also where another may stand for it."""
STARTING_POINT = "jsonl"
"""The recipe whose data section is replaced by that of the chosen source."""


def write_recipe(name: str, template: str, recipes: Path) -> Path:
    """Write `NAME.yaml` into the current folder.

    Raises:
        UsageError: the file is there already, or name or template is not one.
    """
    name = name.removesuffix(".yaml")
    if not re.fullmatch(NAME, name):
        raise UsageError(f"{name!r} is not a name", mend="use letters, digits, '.', '_' and '-'")
    target = Path(f"{name}.yaml")
    if target.exists():
        raise UsageError("the file is there already", where=str(target), mend="choose another name")
    write_atomic(target, recipe_text(name, template, recipes))
    return target


def recipe_text(name: str, template: str, recipes: Path) -> str:
    """The text of a new recipe: a recipe of the package, or one for a data source."""
    own = sorted(path.stem for path in recipes.glob("*.yaml"))
    sources = component_names(SOURCES)
    if template in own:
        text = (recipes / f"{template}.yaml").read_text(encoding="utf-8")
    elif template in sources:
        text = (recipes / f"{STARTING_POINT}.yaml").read_text(encoding="utf-8")
        section = _data_section(component_class(SOURCES, template), template)
        text = re.sub(r"^data:\n(?:[ #].*\n)+", lambda _: section, text, flags=re.MULTILINE)
    else:
        known = sorted({*own, *sources})
        close = difflib.get_close_matches(template, known, n=1)
        mend = f"did you mean {close[0]!r}?" if close else f"choose one of {', '.join(known)}"
        raise UsageError(f"no recipe or data source {template!r}", where="--from", mend=mend)
    text = re.sub(r"^name: .*$", f"name: {name}", text, count=1, flags=re.MULTILINE)
    return re.sub(r"(limbeck \w+) recipes/\S+\.yaml", rf"\g<1> {name}.yaml", text)


def _data_section(source: type[Component], word: str) -> str:
    """The section of a source: required fields to fill in, the others commented out."""
    lines = ["data:", f"  source: {word}"]
    for name, info in source.model_fields.items():
        if name == source.selector:
            continue
        note = f"  # {info.description}" if info.description else ""
        if info.examples:
            lines.append(f"  {name}: {_yaml(info.examples[0])}{note}")
        elif info.is_required() or name == FILE:
            choices = get_args(info.annotation) if get_origin(info.annotation) is Literal else ()
            more = f" ({', '.join(choices)})" if choices else ""
            lines.append(f"  {name}: {choices[0] if choices else 'CHANGE-ME'}{note}{more}")
        else:
            lines.append(f"  # {name}: {_yaml(info.get_default(call_default_factory=True))}{note}")
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    import yaml

    text = yaml.safe_dump(
        to_jsonable_python(value), default_flow_style=True, width=1000, allow_unicode=True
    )
    return text.removesuffix("\n").removesuffix("\n...").strip()
