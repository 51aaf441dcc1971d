"""Memory for the largest tensors, kept from step to step.

The gradient of a head's weights takes hundreds of MiB. On a processor torch asks the system for
them in every step anew and gives them back, and to get them, page by page, costs as much as the
matrix product that fills them. On GPUs torch's own allocator keeps what it once had.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Sequence
from math import prod
from typing import Any, cast

import torch
from torch import Tensor

SMALLEST_BYTES = 2**25
"""The C library keeps what is smaller by itself."""


class Buffers:
    """Hands out tensors, and has their memory back when nothing refers to it any more.

    That is so when a gradient was set to None, or added to another: no one has to give it back.
    What is kept is as much as was once in use at the same time, and goes with this object.
    """

    def __init__(self) -> None:
        self._free: defaultdict[int, list[Tensor]] = defaultdict(list)

    def take(self, shape: Sequence[int], like: Tensor, *, zeroed: bool = False) -> Tensor:
        """A contiguous tensor of the type and on the device of `like`.

        Args:
            shape: its size.
            like: its type and device.
            zeroed: whether it holds zeros; else what it holds is undefined.
        """
        count = prod(shape)
        length = count * like.element_size()
        if like.device.type != "cpu" or length < SMALLEST_BYTES:
            return like.new_zeros(*shape) if zeroed else like.new_empty(*shape)
        # Few sizes, so that chunks of any number of rows share one. What of a buffer was never
        # written to takes no memory.
        size = 1 << (length - 1).bit_length()
        free = self._free[size]
        owner = free.pop() if free else torch.empty(size, dtype=torch.uint8)
        # The tensor refers to the view, whose end is that of the last tensor on its memory.
        view = memoryview(cast(Any, owner.numpy()))
        weakref.finalize(view, free.append, owner).atexit = False
        made = torch.frombuffer(view, dtype=like.dtype, count=count).view(*shape)
        return made.zero_() if zeroed else made
