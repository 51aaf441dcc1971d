"""How many logits exist at once; no torch is loaded for these numbers.

`summed`: distributions of inner layers, a few rows at a time, recomputed when gradients are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_ROWS = 256
"""Rows of logits in memory at once: enough that reading the head's weights costs little."""

BLOCK_ELEMENTS = {"cpu": 2**18}
"""Logits that a block of the fused losses holds (one row at least): a processor's cache."""

BLOCK_ELEMENTS_ELSEWHERE = 2**22
"""On other devices: enough to keep them busy."""

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
