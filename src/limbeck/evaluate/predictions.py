"""Predictions of any system, from a JSONL file with one object a line."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.errors import DataError

SHAPE = 'each line is {"id": "...", "prediction": "...", "references": ["...", ...]}'


@dataclass(frozen=True)
class PredictionRow:
    """One answer with what it is compared to; other keys of the line are not kept."""

    id: str
    prediction: str
    references: tuple[str, ...]
    metadata: dict[str, Any] = field(default_factory=lambda: {})


def read_prediction_rows(path: Path) -> list[PredictionRow]:
    """Read `id`, `prediction`, `references` and, where there is one, `metadata` of every line.

    Blank lines are skipped; an id may be a whole number.

    Raises:
        DataError: the file cannot be read, is empty, or a line is not what it should be.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror or error})", where=str(path), mend=f"give {_FILE}"
        ) from error
    rows: list[PredictionRow] = []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        row = _row(_parsed(line, where), where)
        if row.id in lines_of:
            raise DataError(
                f"id {row.id[:80]!r} is there already, in line {lines_of[row.id]}",
                where=where,
                mend="give every sample one line",
            )
        lines_of[row.id] = number
        rows.append(row)
    if not rows:
        raise DataError("holds no prediction", where=str(path), mend=SHAPE)
    return rows


_FILE = "a JSONL file of predictions"


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line.decode())
    except UnicodeDecodeError as error:
        raise DataError(
            f"is not UTF-8 (byte {error.start + 1} of the line)",
            where=where,
            mend="save the file as UTF-8",
        ) from error
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or str(error)
        raise DataError(f"is not valid JSON ({reason})", where=where, mend=SHAPE) from error
    if not isinstance(value, dict):
        raise DataError(f"is a JSON {_kind(value)}, not an object", where=where, mend=SHAPE)
    return value


def _row(value: dict[str, Any], where: str) -> PredictionRow:
    for key in ("id", "prediction", "references"):
        if key not in value:
            raise DataError(f"lacks the key {key!r}", where=where, mend=SHAPE)
    name, prediction, references = value["id"], value["prediction"], value["references"]
    if isinstance(name, bool) or not isinstance(name, str | int):
        raise _wrong("id", "a string", name, where)
    if not isinstance(prediction, str):
        raise _wrong("prediction", "a string", prediction, where)
    if not isinstance(references, list):
        raise _wrong("references", "a list of strings", references, where)
    for reference in references:
        if not isinstance(reference, str):
            raise _wrong("an item of references", "a string", reference, where)
    metadata = value.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise _wrong("metadata", "an object", metadata, where)
    return PredictionRow(str(name), prediction, tuple(references), metadata)


def _wrong(key: str, wanted: str, value: Any, where: str) -> DataError:
    return DataError(f"{key} is a JSON {_kind(value)}, not {wanted}", where=where, mend=SHAPE)


def _kind(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")
