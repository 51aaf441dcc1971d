"""Reading what other stages wrote; a file that cannot be read is an error that names it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from limbeck.errors import DataError
from limbeck.store import MANIFEST

_SURROGATES = re.compile("[\ud800-\udfff]")
_MEND = "remove the stage's folder and run again"


def read_json(path: Path) -> Any:
    """A JSON file, made safe to write again (see `clean`)."""
    try:
        return clean(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path), mend=_MEND) from error


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a JSON Lines file."""
    line = 0
    try:
        with path.open(encoding="utf-8") as stream:
            for text in stream:
                line += 1
                if text.strip():
                    row = json.loads(text)
                    if not isinstance(row, dict):
                        raise ValueError("the row is not a JSON object")
                    yield clean(row)
    except (OSError, ValueError) as error:
        where = f"{path}:{line}" if line else str(path)
        raise DataError(f"cannot be read ({error})", where=where, mend=_MEND) from error


def manifest_of(folder: Path) -> dict[str, Any]:
    """The manifest of a stage folder, or nothing where the stage is still being written."""
    path = folder / MANIFEST
    return read_json(path) if path.is_file() else {}


def clean(value: Any) -> Any:
    """The value without what strict JSON and UTF-8 cannot hold: NaN, infinity, lone surrogates."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str):
        return _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", value)
    if isinstance(value, dict):
        return {clean(str(key)): clean(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [clean(item) for item in value]
    return value
