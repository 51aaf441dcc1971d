"""The differences of two results files in words, for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.report.cost_tables import MEASUREMENT_NAMES
from limbeck.report.format import condition, count, decimal, interval, quantity, spread, times
from limbeck.report.table import shortened

_VALUE_LIMIT = 60
_SIZES = {"parameters": "parameters", "disk_bytes": "bytes on disk"}


def describe(found: Mapping[str, Any]) -> str:
    """Conditions first, since they decide how to read the numbers; then numbers; then the rest."""
    lines = [f"A  {found['a']}", f"B  {found['b']}"]
    if found["conditions"]:
        lines += ["", "What was not alike (A, B):"]
        lines += [
            f"  {_prefixed(one['model'], one['what'])}: {_value(one['a'])}, {_value(one['b'])}"
            for one in found["conditions"]
        ]
    for title, rows, line in (
        ("measured", found["measurements"], _measured),
        ("scores", found["scores"], _score),
    ):
        groups: dict[str, list[str]] = {}
        for row in rows:
            place = condition(row["regime"]) if title == "measured" else title
            groups.setdefault(_prefixed(row["model"], place), []).append(line(row))
        for group, texts in groups.items():
            lines += ["", f"{group}:", *texts]
    if found["not_compared"]:
        lines += ["", "Not compared:"]
        lines += [
            f"  {_prefixed(one['model'], one['what'])}: {one['why']}"
            for one in found["not_compared"]
        ]
    if not (found["measurements"] or found["scores"]):
        lines += ["", "Nothing in these files can be compared."]
    return "\n".join(lines)


def _measured(row: Mapping[str, Any]) -> str:
    if row.get("counted"):
        name, texts = _SIZES[row["name"]], [count(row[side]["value"]) for side in "ab"]
    else:
        name = MEASUREMENT_NAMES.get(row["name"], row["name"].replace("_", " "))
        if row["memory_kind"]:
            name = f"{name}, {row['memory_kind']}"
        texts = [_with_spread(row[side], row["unit"]) for side in "ab"]
    return _line(name, texts, times(row["ratio"]), row)


def _score(row: Mapping[str, Any]) -> str:
    texts = [
        f"{decimal(row[side]['mean'])} {interval(row[side]['low'], row[side]['high'])}"
        for side in "ab"
    ]
    return _line(row["name"], texts, decimal(row["difference"], signed=True), row)


def _line(name: str, texts: Sequence[str], change: str, row: Mapping[str, Any]) -> str:
    return f"  {name:<32}{texts[0]:<32}{texts[1]:<32}{change:<9}{_verdict(row)}".rstrip()


def _verdict(row: Mapping[str, Any]) -> str:
    what = (
        "counted"
        if row.get("counted")
        else {
            True: f"{row['b_is'] or 'changed'}, beyond the spread",
            False: "within the spread",
            None: "no spread known",
        }[row["beyond_spread"]]
    )
    return f"{what}; mixed: {', '.join(row['mixed'])}" if row["mixed"] else what


def _with_spread(one: Mapping[str, Any], unit: str) -> str:
    text = quantity(one["value"], unit)
    if one["low"] is None or one["high"] is None:
        return text
    return f"{text} ({spread(one['low'], one['high'], unit)})"


def _prefixed(model: str, text: str) -> str:
    return f"{model}, {text}" if model else text


def _value(value: Any) -> str:
    return shortened(str(value), _VALUE_LIMIT) if value is not None else "nothing"
