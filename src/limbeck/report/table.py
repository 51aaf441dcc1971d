"""The report's tables as values: built once from the results, rendered as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from limbeck.report.format import count

Results = Mapping[str, Any]
"""What `limbeck.report.results.assemble` returns."""


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, a smaller second part, and a tone that the style sheet knows."""

    text: str
    detail: str = ""
    tone: str = ""
    link: str = ""
    """Where the text leads to, in the HTML pages."""


@dataclass(frozen=True)
class Table:
    """A table with its caption; the first cell of a row is its heading."""

    form: ClassVar = "table"
    key: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""
    prose: bool = False
    """Whether its cells hold sentences, which wrap, and not numbers."""


def shortened(text: str, limit: int) -> str:
    """The text, or its beginning with a note on how long it was."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… (shortened: {count(len(text))} characters)"
