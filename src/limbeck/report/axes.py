"""Axes of the report's plots: a range fitted to values, its ticks, and pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from limbeck.report.format import decimal, significant

LOG_FROM = 4.0
"""An axis of positive values turns logarithmic when the largest is this many times the smallest."""


@dataclass(frozen=True)
class Axis:
    """Maps values in [low, high] to pixels in [start, end], linearly or by logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a value; values outside the range stay on its border."""
        low, high, here = (
            (math.log10(v) if self.log else v)
            for v in (self.low, self.high, min(max(value, self.low), self.high))
        )
        return round(self.start + (self.end - self.start) * (here - low) / (high - low), 2)

    def ticks(self, count: int = 5) -> list[float]:
        """Round values inside the range."""
        if self.log:
            decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if self.high / self.low < 300 else (1,)
            found = [step * 10.0**decade for decade in decades for step in steps]
            inside = [value for value in found if self.low <= value <= self.high]
            if len(inside) >= 2:
                return inside
        return _round_values(self.low, self.high, count)

    def labels(self, count: int = 5) -> list[tuple[float, str]]:
        """Ticks with their text, all with the same decimals where the axis is linear."""
        ticks = self.ticks(count)
        if not self.log and len(ticks) > 1:
            step = ticks[1] - ticks[0]
            decimals = next((d for d in range(9) if abs(round(step, d) - step) < step * 1e-6), 9)

            return [(tick, decimal(tick, decimals)) for tick in ticks]
        return [(tick, _short(tick)) for tick in ticks]


def fitted(
    values: Iterable[float | None],
    start: float,
    end: float,
    *,
    log: bool | None = None,
    margin: float = 0.08,
    include: tuple[float, ...] = (),
) -> Axis:
    """An axis around the values with some air.

    Args:
        values: None is left out.
        start: pixel of the low end.
        end: pixel of the high end.
        log: None decides by the spread of the values.
        margin: air at each end, as a share of the range.
        include: values that must be inside as well.
    """
    known = [v for v in (*values, *include) if v is not None] or [0.0, 1.0]
    low, high = min(known), max(known)
    positive = low > 0
    use_log = positive and (high / low >= LOG_FROM if log is None else log)
    if use_log:
        air = max((math.log10(high) - math.log10(low)) * margin, 0.05)
        return Axis(low / 10**air, high * 10**air, start, end, log=True)
    air = (high - low) * margin or abs(high) * 0.1 or 1.0
    return Axis(low - air, high + air, start, end)


def _round_values(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def _short(value: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return _trimmed(value / (1e3 if letter == "k" else size)) + letter
    return _trimmed(value)


def _trimmed(value: float) -> str:
    text = significant(value)
    return text.rstrip("0").rstrip(".") if "." in text else text
