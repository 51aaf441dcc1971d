"""How numbers are written in every page: units, digits, intervals; the same in HTML and Markdown.

Sizes on disk and in memory are binary (1 MiB = 1024 KiB), because that is what is measured.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

MISSING = "n/a"
MINUS = "\N{MINUS SIGN}"


def decimal(value: float | None, decimals: int = 3, *, signed: bool = False) -> str:
    """A number with fixed decimals, thousands separated; `n/a` for None, NaN and infinity."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = f"{abs(value):,.{decimals}f}"
    if not float(text.replace(",", "")):
        return text
    return (MINUS if value < 0 else "+" if signed else "") + text


def score_decimals(values: Iterable[float | None]) -> int:
    """Decimals that suit a metric: 3 on a 0-1 scale, fewer on a 0-10 or a 0-100 scale."""
    largest = max((abs(v) for v in values if v is not None and math.isfinite(v)), default=0.0)
    return 1 if largest >= 20 else 2 if largest >= 2 else 3


def significant(value: float | None, digits: int = 3) -> str:
    """A number with about three digits that carry information, never in exponent form."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -6:
        return decimal(value, 9)
    return decimal(value, max(0, digits - 1 - exponent))


def interval(low: float | None, high: float | None, decimals: int = 3) -> str:
    """`[low, high]`."""
    return f"[{decimal(low, decimals)}, {decimal(high, decimals)}]"


def percent(share: float | None, decimals: int = 1) -> str:
    """A share of one as `96.3 %`."""
    return MISSING if share is None else f"{decimal(share * 100, decimals)} %"


def times(ratio: float | None) -> str:
    """A ratio as `4.2×`."""
    if ratio is None or not math.isfinite(ratio):
        return MISSING
    return f"{decimal(ratio, 2 if ratio < 2 else 1 if ratio < 100 else 0)}×"


def count(number: float | None) -> str:
    """A whole number with thousands separated."""
    return decimal(number, 0)


def parameters(number: float | None) -> str:
    """A number of parameters as `1.57 M` or `8.29 B`."""
    if number is None:
        return MISSING
    for size, letter in ((1e9, " B"), (1e6, " M"), (1e3, " K")):
        if number >= size:
            return f"{significant(number / size)}{letter}"
    return count(number)


def data_size(size_bytes: float | None) -> str:
    """Bytes as B, KiB, MiB, GiB or TiB."""
    if size_bytes is None:
        return MISSING
    size, unit = float(size_bytes), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(size) < 1024 or unit == "TiB":
            break
        size /= 1024
    return f"{significant(size)} {unit}"


def duration(seconds: float | None) -> str:
    """Seconds as the two largest units that tell: `2 h 5 min`, `1 min 52 s`, `3.2 s`, `45 ms`."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 1:
        return f"{significant(seconds * 1000)} ms" if seconds else "0 s"
    if seconds < 60:
        return f"{significant(seconds, 2 if seconds < 10 else 3)} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def quantity(value: float | None, unit: str) -> str:
    """A measured value with its unit; milliseconds and MiB move to the unit that reads best."""
    if value is None or not math.isfinite(value):
        return MISSING
    if unit == "ms":
        return f"{significant(value / 1000)} s" if value >= 1000 else f"{significant(value)} ms"
    if unit == "s":
        return duration(value)
    if unit == "MiB":
        return data_size(value * 1024**2)
    return f"{significant(value)} {unit}".rstrip()


def condition(regime: str) -> str:
    """A benchmark's regime in words: `natural_length/batch_1` as `natural length, batch 1`."""
    return regime.replace("_", " ").replace("/", ", ")


def spread(low: float, high: float, unit: str) -> str:
    """`39.4 to 46.5 ms`: both ends, the unit once where they share it."""
    first, last = quantity(low, unit), quantity(high, unit)
    number, _, own_unit = first.partition(" ")
    return f"{number} to {last}" if last.endswith(f" {own_unit}") else f"{first} to {last}"
