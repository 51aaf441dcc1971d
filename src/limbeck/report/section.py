"""What the report's sections are made of; both templates know how to show each of these parts.

Nothing here depends on HTML or Markdown: figures are left out of the Markdown, the rest is in both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from markupsafe import Markup

from limbeck.report.table import Table


@dataclass(frozen=True)
class Words:
    """A paragraph of plain text."""

    form: ClassVar = "words"
    text: str


@dataclass(frozen=True)
class Figure:
    """One plot, what it shows in words, a heading above it where several stand side by side."""

    plot: Markup
    caption: str = ""
    above: str = ""
    legend: tuple[tuple[str, str], ...] = ()
    """Pairs of a CSS class and what it stands for."""


@dataclass(frozen=True)
class Figures:
    """Plots side by side; `wide` ones are two to a row at most."""

    form: ClassVar = "figures"
    figures: tuple[Figure, ...]
    heading: str = ""
    wide: bool = False


@dataclass(frozen=True)
class Finding:
    """A statement with its outcome (better, worse, tie, not_measured) and why it was decided so."""

    outcome: str
    statement: str
    why: str = ""


@dataclass(frozen=True)
class Findings:
    """Statements with their outcomes, under a heading."""

    form: ClassVar = "findings"
    heading: str
    rows: tuple[Finding, ...]


@dataclass(frozen=True)
class Answers:
    """Questions with their answers; each a mapping of `question`, `answer` and `tone`."""

    form: ClassVar = "answers"
    rows: tuple[Mapping[str, str], ...]


@dataclass(frozen=True)
class Code:
    """Text that is shown as it is, such as a recipe."""

    form: ClassVar = "code"
    text: str


@dataclass(frozen=True)
class Folded:
    """Parts that are shown on request; Markdown shows them last."""

    form: ClassVar = "folded"
    summary: str
    parts: tuple[Part, ...]
    in_markdown: bool = True


@dataclass(frozen=True)
class Columns:
    """Parts side by side where the window is wide enough."""

    form: ClassVar = "columns"
    columns: tuple[tuple[Part, ...], ...]


@dataclass(frozen=True)
class Gallery:
    """The samples themselves; in the HTML page only."""

    form: ClassVar = "gallery"
    content: Mapping[str, Any]


Part = Words | Figures | Findings | Answers | Code | Folded | Columns | Gallery | Table


@dataclass(frozen=True)
class Section:
    """A part of the report with its place in the navigation.

    Args:
        key: the anchor, letters and hyphens.
        title: the heading.
        short: a word or two for the navigation.
        intro: a few plain words on what is shown and how to read it.
        parts: in the order in which they are shown.
    """

    key: str
    title: str
    short: str
    intro: str
    parts: tuple[Part, ...]
    in_markdown: bool = True


def present(*parts: Part | None) -> tuple[Part, ...]:
    """The parts that have something to show; tables without rows and empty frames are left out."""
    return tuple(part for part in parts if part is not None and not _is_empty(part))


def _is_empty(part: Part) -> bool:
    match part:
        case Table():
            return not part.rows
        case Findings() | Answers():
            return not part.rows
        case Figures():
            return not part.figures
        case Folded():
            return not part.parts
        case Columns():
            return not any(part.columns)
        case Words() | Code():
            return not part.text
        case Gallery():
            return False
