"""A JSONL table beside its pictures: one row a picture, with a label, captions and a split."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from limbeck.data.sources import file_stamp
from limbeck.data.sources.jsonl import read_lines
from limbeck.encoders.sources import EncoderSource, Picture, Task, opener
from limbeck.errors import DataError


class Table(EncoderSource):
    """Columns are named by the recipe; paths are relative to the table, and stay below it."""

    tasks: ClassVar[tuple[Task, ...]] = ("classification", "retrieval")

    source: Literal["table"] = "table"
    path: str = Field(description="the .jsonl file")
    task: Task = "classification"
    image: str = Field("image", description="column of the picture's path")
    label: str | None = Field("label", description="column of the class; null: none")
    captions: str | None = Field(None, description="column of the caption, or of a list of them")
    split: str = Field("split", description="column of the split")
    train: tuple[str, ...] = Field(("train",), min_length=1, description="splits to train on")
    test: tuple[str, ...] = Field(("test",), min_length=1, description="splits to test on")

    @property
    def chosen_task(self) -> Task:
        """As the recipe says."""
        return self.task

    def pictures(self) -> Iterator[Picture]:
        """The rows of the chosen splits in their order."""
        table = Path(self.path)
        base = table.parent.resolve()
        splits = dict.fromkeys(self.train, "train") | dict.fromkeys(self.test, "test")
        for number, columns, error in read_lines(table):
            where = f"{table}:{number}"
            if error is not None:
                raise DataError(error, where=where)
            split = splits.get(str(columns.get(self.split)))
            if split is None:
                continue
            path = (base / str(columns.get(self.image))).resolve()
            if not path.is_relative_to(base):
                raise DataError("the picture lies outside the table's folder", where=where)
            label = columns.get(self.label) if self.label else None
            said = columns.get(self.captions, ()) if self.captions else ()
            texts = (said,) if isinstance(said, str) else tuple(said)
            name = str(columns.get(self.image))
            yield Picture(
                name, split, opener(path), None if label is None else str(label), tuple(texts)
            )

    def content_key(self) -> Any:
        """The table; its pictures by size and time."""
        table = Path(self.path)
        found = [
            file_stamp(table.parent / str(columns.get(self.image)))
            for _, columns, error in read_lines(table)
            if error is None
        ]
        return [file_stamp(table), found]
