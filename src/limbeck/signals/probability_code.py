"""Log-probabilities of kept tokens in one byte each, beside the exact mass that was not kept.

What is coded is x, the distance in nats below the row's most probable token. Its 255 levels are
x = A u + (R - A) u^2 for u = 0, 1/254, ..., 1, where R is the row's largest distance and A is
R / 3, 12 at most: three times finer than even steps near the top, where the mass is. Level 0
belongs to the most probable token and its exact ties alone, so the argmax survives; byte 255 is a
token that is ruled out. R is one byte, too: a power of 2^(1/12), rounded up.

Probabilities are not read off these levels. They share the mass that the stored tail leaves over,

    p_i(T) = (1 - tail(T)) exp(-x_i / T) / sum_j exp(-x_j / T),

so that kept tokens and tail sum to 1 at every stored temperature, whatever the levels rounded.
A tail is stored as log tail(T) in float16: 2^-11 relative, an error of its mass that costs less
than 1e-6 nats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = 254
LINEAR_SHARE, LARGEST_LINEAR_NATS = 1 / 3, 12.0
RULED_OUT = 255
SMALLEST = 2.0**-24
"""The smallest positive float16."""

LIMIT_NATS = 64.0
"""At the hottest stored temperature a token so far below the best is coded as exactly so far."""

RANGES = 2.0 ** (np.arange(256) / 12 - 10)
"""R of every byte, 0.001 to 2,435 nats."""

_U = np.append(np.arange(STEPS + 1) / STEPS, np.inf)
"""u of every byte."""


def encode(
    logp_NK: NDArray[Any], log_tails_NT: NDArray[Any], temperatures: Sequence[float]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float16]]:
    """Codes [N, K], ranges R [N] and log-tails [N, T] of log-probabilities at T = 1.

    Every row holds a finite log-probability.
    """
    distance = logp_NK.max(axis=1, keepdims=True) - logp_NK.astype(np.float64)
    ruled_out = np.isposinf(distance)
    limit = min(LIMIT_NATS * max(1.0, *temperatures), RANGES[-1])
    distance = np.where(ruled_out, 0, np.minimum(distance, limit))
    ranges = np.searchsorted(RANGES, distance.max(axis=1)).astype(np.uint8)
    linear, square = _coefficients(ranges)
    u = (np.sqrt(linear**2 + 4 * square * distance) - linear) / (2 * square)
    codes = np.clip(np.rint(u * STEPS), distance > 0, STEPS).astype(np.uint8)
    codes[ruled_out] = RULED_OUT
    # A mass of exactly 1 outside would leave the kept tokens none.
    tails = np.minimum(log_tails_NT, -SMALLEST)
    with np.errstate(over="ignore"):  # beyond float16 it is -inf: no mass
        return codes, ranges, tails.astype(np.float16)


def decode(
    codes_NK: NDArray[np.uint8],
    ranges_N: NDArray[np.uint8],
    log_tails_NT: NDArray[np.float16],
    temperatures: Sequence[float],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Log-probabilities at T = 1 [N, K] and log-sums [N, T], as `records.TopK` holds them.

    The first of `temperatures` is 1.
    """
    linear, square = _coefficients(ranges_N)
    u = _U[codes_NK]
    below = -u * (linear + square * u)
    log_best = np.empty(log_tails_NT.shape)
    for at, temperature in enumerate(temperatures):
        scaled = below if temperature == 1 else below / temperature
        log_best[:, at] = -np.log(np.exp(scaled).sum(axis=1))
    log_best += np.log(-np.expm1(log_tails_NT.astype(np.float64)))
    log_sums = log_best[:, :1] / np.asarray(temperatures) - log_best
    return (below + log_best[:, :1]).astype(np.float32), log_sums.astype(np.float32)


def largest_error(ranges_N: NDArray[np.uint8]) -> NDArray[np.float64]:
    """By how many nats the distance of a token that is nearer than the limit can be off."""
    # Half the widest step, which is the last; near the top one whole step, which is narrower.
    linear, square = _coefficients(ranges_N)
    return ((linear + 2 * square) / (2 * STEPS))[:, 0]


def _coefficients(ranges_N: NDArray[np.uint8]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Of u and u^2 in x, [N, 1]."""
    ranges = RANGES[ranges_N][:, None]
    linear = np.minimum(ranges * LINEAR_SHARE, LARGEST_LINEAR_NATS)
    return linear, ranges - linear
