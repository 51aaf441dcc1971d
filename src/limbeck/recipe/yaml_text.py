"""Recipe text to plain values, safely, and from a path in the recipe back to its line.

Scalars are read by the rules of YAML 1.2: `1e-4` is a number, only `true` and `false` are
booleans (`on`, `off`, `yes`, `no` are words), and `2024-01-01` or `1:30` are text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import yaml

from limbeck.errors import UsageError

MAX_CHARACTERS = 1_000_000
MAX_VALUES = 100_000
"""Upper bound on the values of a document after its aliases are written out."""
MAX_DEPTH = 40

_MERGE = "tag:yaml.org,2002:merge"
_TEXT = "tag:yaml.org,2002:str"
_TAGS = {
    f"tag:yaml.org,2002:{name}"
    for name in ("null", "bool", "int", "float", "str", "map", "seq", "merge")
}


_PLAIN_SCALARS = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?(0|[1-9][0-9_]*)", "-+0123456789"),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?"
        r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
)
"""What an unquoted scalar is by its form, with the characters it can begin with (YAML 1.2)."""


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    found: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
    for name, pattern, beginnings in _PLAIN_SCALARS:
        resolver = f"tag:yaml.org,2002:{name}", re.compile(f"^(?:{pattern})$")
        for character in [*beginnings, *([""] if name == "null" else [])]:
            found.setdefault(character, []).append(resolver)
    return found


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalar rules of YAML 1.2 in place of those of 1.1."""

    yaml_implicit_resolvers = _resolvers()


@dataclass(frozen=True)
class Places:
    """Where each part of a recipe was written, for error messages."""

    file: str
    root: Any = None
    overrides: tuple[str, ...] = ()

    def of(self, path: Sequence[str]) -> str:
        """`file:line: a.b.c`, or `--set a.b=c` for a value that an override gave."""
        for override in reversed(self.overrides):
            dotted = override.partition("=")[0].strip().split(".")
            if dotted[: len(path)] == list(path) or list(path[: len(dotted)]) == dotted:
                return f"--set {override}: {'.'.join(path)}" if path else f"--set {override}"
        line, node = None, self.root
        for name in path:
            if isinstance(node, yaml.MappingNode):
                found = [(key, item) for key, item in node.value if str(key.value) == name]
                if not found:
                    break
                line, node = found[-1][0].start_mark.line + 1, found[-1][1]
            elif isinstance(node, yaml.SequenceNode) and _is_index(name, len(node.value)):
                node = node.value[int(name)]
                line = node.start_mark.line + 1
            else:
                break
        place = f"{self.file}:{line}" if line else self.file
        return f"{place}: {'.'.join(path)}" if path else place


def parse_yaml(text: str, where: str) -> tuple[dict[str, Any], Any]:
    """A YAML mapping as plain values, and its node tree (for line numbers).

    Raises:
        UsageError: not YAML, not a mapping, a key given twice or not text, a tag, or a document
            that is too large or too deep once its aliases are written out.
    """
    value, root = _parse(text, where)
    if not isinstance(value, dict):
        raise UsageError("a recipe is a YAML mapping", where=where)
    return cast("dict[str, Any]", value), root


def parse_value(text: str, where: str) -> Any:
    """One value of the command line, by the same rules as in a recipe file.

    Raises:
        UsageError: not YAML.
    """
    return _parse(text, where)[0]


def _parse(text: str, where: str) -> tuple[Any, Any]:
    if len(text) > MAX_CHARACTERS:
        raise UsageError(f"longer than {MAX_CHARACTERS} characters", where=where)
    try:
        loader: Any = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None, None
        _Examination(where).examine(root, ())
        return loader.construct_document(root), root
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise UsageError(f"not valid YAML ({problem})", where=where + line) from error
    except UsageError:
        raise
    except (ValueError, KeyError, IndexError, TypeError) as error:
        # PyYAML's constructors answer with these when a value does not fit its explicit tag.
        raise UsageError(f"not valid YAML ({error})", where=where) from error
    except RecursionError as error:
        raise UsageError("nested too deeply", where=where) from error


class _Examination:
    """One walk over the node tree that refuses what no recipe needs."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._measured: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def examine(self, node: Any, path: tuple[str, ...]) -> tuple[int, int]:
        """Number of values below `node`, itself included, and the depth of its nesting."""
        if id(node) in self._measured:
            return self._measured[id(node)]
        if id(node) in self._open:
            raise self._refusal(node, path, "an alias that contains itself")
        if node.tag not in _TAGS:
            raise self._refusal(node, path, f"the tag {node.tag!r} is not accepted")
        self._open.add(id(node))
        count, depth = 1, 1
        for name, item in self._children(node, path):
            below, deeper = self.examine(item, (*path, name))
            count, depth = count + below, max(depth, deeper + 1)
        self._open.discard(id(node))
        if count > MAX_VALUES or depth > MAX_DEPTH or len(path) > MAX_DEPTH:
            raise self._refusal(node, path, "too many values, or nested too deeply")
        self._measured[id(node)] = count, depth
        return count, depth

    def _children(self, node: Any, path: tuple[str, ...]) -> list[tuple[str, Any]]:
        if isinstance(node, yaml.SequenceNode):
            return [(str(index), item) for index, item in enumerate(node.value)]
        if not isinstance(node, yaml.MappingNode):
            node.value.encode()  # a lone surrogate could not be printed or hashed later
            if "\0" in node.value:
                raise self._refusal(node, path, "a NUL character")
            return []
        seen: set[str] = set()
        for key, _ in node.value:
            name = str(key.value)[:80]
            if not isinstance(key, yaml.ScalarNode) or key.tag not in (_TEXT, _MERGE):
                raise self._refusal(key, path, f"key {name!r} is not text", "put it in quotes")
            key.value.encode()
            if key.value in seen:
                dotted = ".".join((*path, name))
                raise self._refusal(key, (), f"key {dotted!r} is given twice", "keep one")
            seen.add(key.value)
        return [(key.value, item) for key, item in node.value]

    def _refusal(
        self, node: Any, path: tuple[str, ...], what: str, mend: str | None = None
    ) -> UsageError:
        place = f"{self._where}:{node.start_mark.line + 1}"
        return UsageError(what, where=": ".join(filter(None, (place, ".".join(path)))), mend=mend)


def _is_index(name: str, length: int) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 10 and int(name) < length
