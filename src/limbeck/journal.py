"""Append-only JSON lines: what a stage has finished so far, safe against a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from limbeck.store import write_error


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Append rows and flush them to disk.

    Raises:
        DataError: the write failed; names the path.
    """
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        with path.open("ab") as stream:
            stream.write(lines.encode())
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise write_error(path, error) from error


def read(path: Path, *, own: bool = True) -> list[dict[str, Any]]:
    """The whole rows of a journal; a torn last line (a killed run) is cut off the file.

    Unless it is not our `own`: another process may be writing that line.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if own and len(whole) != len(content):
        with path.open("r+b") as stream:
            stream.truncate(len(whole))
    return [json.loads(line) for line in whole.splitlines()]
