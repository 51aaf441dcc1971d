"""Rows in JSON Lines files: chats with images, or plain columns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, Literal

from limbeck.data.sources import Row
from limbeck.data.sources.files import FileSource
from limbeck.errors import DataError

MAX_LINE_BYTES = 64 * 2**20

_UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class Jsonl(FileSource):
    """JSON Lines: one row a line, UTF-8, with `messages` and `images` or with plain columns.

    A line that is not a JSON object is quarantined with its number. Picture paths are relative to
    the file's folder.
    """

    suffix: ClassVar[str] = ".jsonl"
    source: Literal["jsonl"] = "jsonl"

    def rows(self) -> Iterator[Row]:
        """One row for each line that is not blank; its id is its own, or split and line number."""
        counts: dict[str | None, int] = {}
        for split, path in self.files():
            start = counts.get(split, 0)
            for number, values, error in read_lines(path):
                counts[split] = start + number
                row_id, where = f"{split or 'row'}-{start + number}", f"{path}:{number}"
                if error is not None:
                    yield Row(row_id, where, split=split, error=error)
                else:
                    yield self.row(values, default_id=row_id, where=where, split=split)


def read_lines(path: Path) -> Iterator[tuple[int, Any, str | None]]:
    """Line number, value, and what is wrong with the line, of every line that is not blank.

    Raises:
        DataError: the file cannot be read or is in another encoding altogether.
    """
    for number, line in _lines(path):
        try:
            yield number, _parse(line), None
        except DataError as error:
            yield number, None, error.what


def _lines(path: Path) -> Iterator[tuple[int, bytes | None]]:
    """Numbered lines that are not blank; None for one that is longer than a row can be."""
    try:
        with path.open("rb") as stream:
            number = 0
            while line := stream.readline(MAX_LINE_BYTES):
                number += 1
                if number == 1:
                    if (mark := _OTHER_MARKS.get(line[:2])) is not None:
                        raise DataError(
                            f"file is {mark}, not UTF-8", where=str(path), mend="convert it"
                        )
                    line = line.removeprefix(_UTF8_MARK)
                if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                    _skip_line(stream)
                    yield number, None
                elif line.strip():
                    yield number, line
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror or error})", where=str(path)) from error


def _skip_line(stream: BinaryIO) -> None:
    while (rest := stream.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
        pass


def _parse(line: bytes | None) -> Any:
    if line is None:
        raise DataError(f"line is longer than {MAX_LINE_BYTES // 2**20} MiB")
    try:
        return json.loads(line.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise DataError(f"line is not UTF-8 text (byte {error.start})") from error
    except json.JSONDecodeError as error:
        raise DataError(f"line is not JSON ({error.msg} at column {error.colno})") from error
    except RecursionError as error:
        raise DataError("line is nested too deep") from error
    except ValueError as error:
        raise DataError(f"line is not JSON ({error})") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON value")
