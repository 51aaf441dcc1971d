"""A folder of pictures, with captions beside them or none."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from limbeck.data.images import FILE_SUFFIXES
from limbeck.data.sources import SPLIT_NAMES, Row, folder_stamp
from limbeck.data.sources.columns import ColumnSource
from limbeck.data.sources.jsonl import read_lines
from limbeck.errors import DataError

TABLES = ("metadata.jsonl", "metadata.csv")


class Folder(ColumnSource):
    """Every picture below a folder; a top folder called train, val, test, ... is a split.

    Where a `metadata.jsonl` or `metadata.csv` lies in the folder or in a split's, its rows are the
    samples (column `file_name`, others by `columns`; Hugging Face's ImageFolder layout). Else the
    text file of a picture's name (`a.png`, `a.txt`) is its caption, and a picture without one has
    no reference: a teacher can label it. Folders below name the category.
    """

    source: Literal["folder"] = "folder"
    path: str = Field(description="the folder")

    def rows(self) -> Iterator[Row]:
        """Metadata rows in their order, or pictures by name; ids are relative paths."""
        base = Path(self.path)
        if not base.is_dir():
            raise DataError("folder not found", where=self.path)
        tables = [path for name in TABLES for path in sorted(base.rglob(name))]
        if tables:
            for table in tables:
                yield from self._table(table, base)
            return
        for path in sorted(base.rglob("*")):
            if path.suffix.lower() in FILE_SUFFIXES and not _hidden(path, base):
                yield self._picture(path, base)

    def own_roots(self) -> list[Path]:
        """The folder."""
        return [Path(self.path).resolve()]

    def content_key(self) -> Any:
        """A hash over the names, sizes and times of all files."""
        return {"folder": folder_stamp(Path(self.path))}

    def _picture(self, path: Path, base: Path) -> Row:
        name = path.relative_to(base).as_posix()
        split = _split(path, base)
        columns: dict[str, Any] = {"image": str(path.parent.resolve() / path.name)}
        inner = path.relative_to(base).parts[1 if split else 0 : -1]
        if inner:
            columns["category"] = "/".join(inner)
        caption = path.with_suffix(".txt")
        row = self.row(columns, default_id=name, where=str(path), split=split)
        if caption.is_file():
            try:
                row.references = [caption.read_text(encoding="utf-8-sig").strip()]
            except (OSError, UnicodeDecodeError) as error:
                row.error = f"caption {caption.name} cannot be read ({error})"
        return row

    def _table(self, table: Path, base: Path) -> Iterator[Row]:
        split = _split(table, base)
        for where, columns, error in _table_rows(table):
            file_name = columns.pop("file_name", None) if isinstance(columns, dict) else None
            if error is None and not (isinstance(file_name, str) and file_name.strip()):
                error = "row has no file_name"
            if error is not None:
                yield Row(where, where, split=split, error=error)
                continue
            folder = table.parent.resolve()
            path = folder / str(file_name)
            if self.columns.image is None:
                columns = {**columns, "image": str(path)}
            name = (table.parent.relative_to(base) / str(file_name)).as_posix()
            yield self.row(columns, default_id=name, where=where, split=split)


def _table_rows(table: Path) -> Iterator[tuple[str, Any, str | None]]:
    """Where, columns, and why there are none."""
    if table.suffix == ".jsonl":
        for number, columns, error in read_lines(table):
            yield f"{table}:{number}", columns, error
        return
    try:
        text = table.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read ({error})", where=str(table)) from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        for columns in reader:
            error = "row has more fields than the header" if None in columns else None
            yield f"{table}:{reader.line_num}", columns, error
    except csv.Error as error:
        raise DataError(f"not a CSV table ({error})", where=f"{table}:{reader.line_num}") from error


def _split(path: Path, base: Path) -> str | None:
    top = path.relative_to(base).parts[0]
    return top if path.parent != base and top.lower() in SPLIT_NAMES else None


def _hidden(path: Path, base: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(base).parts)
