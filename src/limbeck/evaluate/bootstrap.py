"""Percentile bootstrap over samples, jointly for many models (Efron 1979).

A resample draws n of n samples with replacement. It is a row of counts, so the statistics of all
resamples are one matrix product, and every model and metric sees the same draws: a difference of
two models is paired without more ado.

Shapes: R resamples, n samples, d statistics of a sample (see `limbeck.metrics`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from limbeck.metrics import Array, Metric

CHUNK_COUNTS = 4_000_000
"""Counts held at once (32 MB), so that memory does not grow with the number of samples."""


def bootstrap_values(
    metric: Metric, statistics: Sequence[Array], *, resamples: int, seed: int, draws: int = 0
) -> list[Array]:
    """The metric's value on every resample, [R] for each [n, d] of `statistics`.

    All arrays describe the same n samples in the same order. The draws depend on n, the seed
    and the number `draws` alone.
    """
    n = len(statistics[0])
    generator = np.random.default_rng((seed, draws) if draws else seed)
    found: list[list[Array]] = [[] for _ in statistics]
    rows = max(1, CHUNK_COUNTS // n)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        draws = generator.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        counts = np.bincount(draws.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)
        # One product a model, so that equal statistics give equal values to the last bit.
        for values, rows_nd in zip(found, statistics, strict=True):
            values.append(metric.aggregate(counts @ rows_nd, n))
    return [np.concatenate(values) for values in found]


def interval(value: float, resampled: Array, confidence: float) -> tuple[float, float]:
    """Low and high percentile of the resampled values.

    A corpus metric's value on the whole set can lie outside its own percentiles when n is tiny; the
    interval is then widened to hold it.
    """
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return min(float(low), value), max(float(high), value)
