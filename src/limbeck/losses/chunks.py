"""Distributions of inner layers, a few rows at a time, recomputed when gradients are wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_ELEMENTS = 2**24
"""Logits that exist at once for one layer (64 MiB in float32)."""


def row_chunks(rows: int, vocabulary: int) -> Iterator[slice]:
    """Slices of rows whose logits fit."""
    size = max(1, CHUNK_ELEMENTS // max(1, vocabulary))
    for first in range(0, rows, size):
        yield slice(first, min(first + size, rows))


def summed(values_of: Callable[[slice], Tensor], rows: int, vocabulary: int) -> Tensor:
    """Sum over rows; every chunk is computed again in the backward pass instead of kept.

    Args:
        values_of: from a slice of rows to their values.
        rows: how many there are.
        vocabulary: width of what it computes.
    """
    import torch
    from torch.utils import checkpoint

    again = cast("Callable[..., Tensor]", checkpoint.checkpoint)  # pyright: ignore
    sums: list[Tensor] = []
    for chunk in row_chunks(rows, vocabulary):
        sums.append(again(values_of, chunk, use_reentrant=False).sum())
    return torch.stack(sums).sum()
