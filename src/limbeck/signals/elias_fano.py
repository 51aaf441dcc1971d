"""Rows of increasing numbers in little more than their information, by Elias-Fano coding.

A row of K numbers below U splits each into its l = floor(log2(U / K)) low bits, kept as they are,
and its high part, kept in unary: bit high_i + i is set for the i-th number. That is K l bits and
K + U / 2^l bits, at most half a bit a number above the optimum (Elias 1974, Fano 1971); for 64 of
151,665 tokens 106 bytes, where packed numbers of 18 bits take 144. All rows of an array have
the same size, so that any of them can be decoded alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray


def encode(ids_NK: NDArray[Any], universe: int) -> NDArray[np.uint8]:
    """Bytes [N, B] of rows that increase strictly and lie in [0, universe)."""
    low_bits, high_size = _sizes(ids_NK.shape[1], universe)
    rows, kept = ids_NK.shape
    unary = np.zeros((rows, high_size), np.uint8)
    np.put_along_axis(unary, (ids_NK >> low_bits) + np.arange(kept), 1, axis=1)
    low = ((ids_NK[:, :, None] >> np.arange(low_bits)) & 1).astype(np.uint8)
    packed = [
        np.packbits(bits, axis=1, bitorder="little")
        for bits in (unary, low.reshape(rows, kept * low_bits))
    ]
    return np.concatenate(packed, axis=1)


def decode(packed_NB: NDArray[np.uint8], kept: int, universe: int) -> NDArray[np.int32]:
    """The rows [N, kept] that `encode` was given, increasing."""
    low_bits, high_size = _sizes(kept, universe)
    high_bytes = -(-high_size // 8)
    unary = np.unpackbits(packed_NB[:, :high_bytes], axis=1, count=high_size, bitorder="little")
    ones = np.flatnonzero(unary.view(np.bool_)).reshape(len(packed_NB), kept)
    before = np.arange(len(packed_NB))[:, None] * high_size + np.arange(kept)
    high = (ones - before).astype(np.int32) << low_bits
    return high | _low(packed_NB[:, high_bytes:], kept, low_bits) if low_bits else high


def row_bytes(kept: int, universe: int) -> int:
    """Size of a coded row."""
    low_bits, high_size = _sizes(kept, universe)
    return -(-high_size // 8) + -(-kept * low_bits // 8)


def _sizes(kept: int, universe: int) -> tuple[int, int]:
    """Low bits of a number, and bits of a row's unary part."""
    low_bits = max(0, (universe // kept).bit_length() - 1)
    return low_bits, kept + ((universe - 1) >> low_bits) + 1


def _low(packed_NB: NDArray[np.uint8], kept: int, low_bits: int) -> NDArray[np.int32]:
    """The low bits of each number: they start inside one byte and end inside another."""
    shifts, places = _places(kept, low_bits, packed_NB.shape[1])
    low = packed_NB[:, places[0]].astype(np.int32)
    for at, place in enumerate(places[1:], start=1):
        low |= packed_NB[:, place].astype(np.int32) << (8 * at)
    return (low >> shifts) & ((1 << low_bits) - 1)


@lru_cache(maxsize=64)
def _places(kept: int, low_bits: int, size: int) -> tuple[NDArray[Any], list[NDArray[Any]]]:
    start = np.arange(kept) * low_bits
    touched = -(-(7 + low_bits) // 8)
    # Bytes behind the row's end hold no bit that is asked for, so any byte does there.
    return (start & 7).astype(np.int32), [
        np.minimum((start >> 3) + i, size - 1) for i in range(touched)
    ]
