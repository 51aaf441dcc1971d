"""Memory for the largest tensors, in huge pages where the system gives them.

The gradient of a head's weights takes hundreds of MiB, which an allocator asks the system for in
every step anew and gives back. Got in pages of 4 KiB that costs as much as the matrix product that
fills it; in pages of 2 MiB next to nothing. On GPUs torch's allocator keeps what it once had.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor

HUGE_PAGE_BYTES = 2**21
SMALLEST_BYTES = 16 * HUGE_PAGE_BYTES
"""Below it pages are few, and an allocator may have some left."""


def large(shape: Sequence[int], like: Tensor, *, zeroed: bool = False) -> Tensor:
    """A contiguous tensor of the type and on the device of `like`.

    Args:
        shape: its size.
        like: its type and device.
        zeroed: whether it has to hold zeros; else what it holds is undefined.
    """
    count = prod(shape)
    length = count * like.element_size()
    if like.device.type == "cpu" and length >= SMALLEST_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        try:
            pages = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            pages.madvise(mmap.MADV_HUGEPAGE)
        except OSError:  # a system without huge pages, or without memory: torch says which
            pass
        else:  # zeros, as all new pages are; the tensor keeps them mapped
            return torch.frombuffer(pages, dtype=like.dtype, count=count).view(*shape)
    return like.new_zeros(*shape) if zeroed else like.new_empty(*shape)
