"""Chance between training runs: the interval of a mean over seeds, by Student's t.

The quantile at any level, for intervals that have to hold for several comparisons at once (each
then gets its share of the error, after Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import stdev


def half_width(values: Sequence[float], *, confidence: float, comparisons: int = 1) -> float:
    """Half of the interval of the mean over seeds; two values or more.

    Args:
        values: one for each seed.
        confidence: with which all comparisons hold together.
        comparisons: of which this is one.
    """
    tail = (1 - confidence) / (2 * comparisons)
    return t_quantile(1 - tail, len(values) - 1) * stdev(values) / math.sqrt(len(values))


def t_quantile(probability: float, freedom: int) -> float:
    """The value that Student's t stays below with this probability, above one half."""
    low, high = 0.0, 1.0
    while t_distribution(high, freedom) < probability:
        low, high = high, 2 * high
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (
            (low, middle) if t_distribution(middle, freedom) > probability else (middle, high)
        )
    return (low + high) / 2


def t_distribution(value: float, freedom: int) -> float:
    """P(t ≤ value), value of 0 or more, whole degrees of freedom (Abramowitz and Stegun 26.7.3)."""
    angle = math.atan(value / math.sqrt(freedom))
    sine, cosine = math.sin(angle), math.cos(angle)
    even = freedom % 2 == 0
    term = 1.0 if even else cosine
    total = term if even or freedom > 1 else 0.0
    for n in range(1 if even else 2, freedom - 2, 2):
        term *= cosine**2 * n / (n + 1)
        total += term
    within = sine * total if even else 2 / math.pi * (angle + sine * total)
    return 0.5 + within / 2
