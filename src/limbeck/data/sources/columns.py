"""From a row of named columns to a `Row`: shared by every source that has columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field

from limbeck.data.messages import PLACEHOLDER, VIDEO_PLACEHOLDER
from limbeck.data.sources import Row, Source
from limbeck.errors import DataError
from limbeck.recipe.component import Section

TEMPLATE = re.compile(r"\{(\w+)\}")
"""A column's value in the prompt."""

USUAL: dict[str, tuple[str, ...]] = {
    "id": ("id",),
    "messages": ("messages", "conversations"),
    "image": ("images", "image"),
    "video": ("videos", "video"),
    "references": ("references", "captions", "caption", "answers", "answer", "text"),
    "split": ("split",),
    "category": ("category",),
}


class Columns(Section):
    """Which column holds what. A name that is given must be in every row."""

    id: str | None = Field(None, description="default: id, else the row's number")
    messages: str | None = Field(None, description="default: messages or conversations, if any")
    image: str | None = Field(None, description="one picture or a list; default: images or image")
    video: str | None = Field(None, description="one video or a list; default: videos or video")
    references: str | None = Field(
        None,
        description="one answer or a list; default: the first of references, captions, caption, "
        "answers, answer, text; only in rows without messages text may be one of them",
    )
    split: str | None = Field(None, description="default: split, if any")
    category: str | None = Field(None, description="default: category, if any")
    metadata: tuple[str, ...] = Field((), description="more columns to keep")


class ColumnSource(Source):
    """A source whose rows are mappings of columns."""

    columns: Columns = Columns()
    frames: int = Field(
        8, ge=1, le=256, description="of each video, evenly spread from its first to its last"
    )
    image_root: str | None = Field(
        None, description="folder of the pictures; default: the data set's own folder"
    )

    def image_roots(self) -> list[Path]:
        """The folder named by `image_root`, then the data set's own."""
        named = [Path(self.image_root).resolve()] if self.image_root else []
        return [*named, *self.own_roots()]

    def own_roots(self) -> list[Path]:
        """The data set's own folders, resolved."""
        raise NotImplementedError

    def wants(self, column: str) -> bool:
        """Whether a column is read at all; others (views, icons) may be large."""
        usual = {name for names in USUAL.values() for name in names}
        return column in usual | {"metadata"} | self._named()

    def check_columns(self, there: Iterable[str], *, where: str) -> None:
        """Refuse columns that the recipe names and the whole table lacks.

        Raises:
            DataError: names them and what there is.
        """
        there = list(there)
        if missing := sorted(self._named() - set(there)):
            raise DataError(
                f"no column {', '.join(map(repr, missing))}",
                where=where,
                mend=f"columns: {', '.join(there)}",
            )

    def _named(self) -> set[str]:
        named = self.columns.model_dump(exclude={"metadata"}, exclude_none=True)
        return {*named.values(), *self.columns.metadata, *TEMPLATE.findall(self.prompt)}

    def row(self, values: Any, *, default_id: str, where: str, split: str | None) -> Row:
        """A row of columns as a Row; what cannot be read from it ends in its `error`."""
        row = Row(default_id, where, split=split)
        try:
            if not isinstance(values, dict):
                raise DataError("row is not a mapping of columns")
            self._fill(row, values)
        except DataError as error:
            row.error = error.what
        return row

    def _fill(self, row: Row, values: dict[str, Any]) -> None:
        row_id = self._value(values, "id")
        if row_id is not None:
            if isinstance(row_id, bool) or not isinstance(row_id, (str, int)) or row_id == "":
                raise DataError("id is neither text nor a whole number")
            row.id = str(row_id)
        split = self._value(values, "split")
        if split is not None:
            if not isinstance(split, str) or not split.strip():
                raise DataError("split is not a name")
            row.split = split
        row.metadata = self._metadata(values)
        images = self._value(values, "image")
        if images is None:
            images = []
        row.images = images if isinstance(images, list) else [images]
        videos = self._value(values, "video")
        row.videos = [] if videos is None else videos if isinstance(videos, list) else [videos]
        row.frames = self.frames
        row.messages = self._value(values, "messages")
        row.references = self._value(values, "references", chat=row.messages is not None)
        if isinstance(row.messages, str):
            row.messages = _parsed(row.messages)
        if row.messages is None:
            if not row.images and not row.videos:
                raise DataError("row has neither messages nor an image nor a video")
            row.messages = [{"role": "user", "content": self._prompt(values, row)}]

    def _metadata(self, values: dict[str, Any]) -> dict[str, Any]:
        own = values.get("metadata")
        kept = dict(own) if isinstance(own, dict) else {}
        for name in self.columns.metadata:
            kept[name] = _column(values, name)
        category = self._value(values, "category")
        if category is not None:
            kept["category"] = category
        return kept

    def _value(self, values: dict[str, Any], what: str, *, chat: bool = False) -> Any:
        name = getattr(self.columns, what)
        if name is not None:
            return _column(values, name)
        usual = [name for name in USUAL[what] if not (chat and name == "text")]
        return next((values[name] for name in usual if values.get(name) is not None), None)

    def _prompt(self, values: dict[str, Any], row: Row) -> list[dict[str, Any]]:
        """The template's parts; a column's value is text whatever it looks like."""
        pieces = re.split(f"({PLACEHOLDER}|{VIDEO_PLACEHOLDER})", self.prompt)
        parts: list[dict[str, Any]] = []
        if len(pieces) == 1:
            parts = [{"type": "video"}] * len(row.videos) + [{"type": "image"}] * len(row.images)
        for piece in pieces:
            if piece in (PLACEHOLDER, VIDEO_PLACEHOLDER):
                parts.append({"type": piece[1:-1]})
                continue
            text = TEMPLATE.sub(lambda match: _shown(values, match[1]), piece)
            if text.strip():
                parts.append({"type": "text", "text": text.strip("\r\n")})
        return parts


def _column(values: dict[str, Any], name: str) -> Any:
    if name not in values:
        there = ", ".join(sorted(str(key) for key in values)[:20])
        raise DataError(f"row has no column {name!r:.80} (it has: {there:.300})")
    return values[name]


def _shown(values: dict[str, Any], name: str) -> str:
    """A column's value for the prompt."""
    value = _column(values, name)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(f"column {name!r} of the prompt is neither text nor a number")
    return str(value)


def _parsed(text: str) -> Any:
    """Messages that a column holds as JSON text."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"messages is text but not JSON ({error})") from error
