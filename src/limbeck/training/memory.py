"""Memory while training: how much is used, and whether an error says that there is too little."""

from __future__ import annotations

import psutil
import torch


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device or the machine had no memory left; only CUDA has a class for it."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        "out of memory" in str(error).lower() or "can't allocate memory" in str(error).lower()
    )


def memory_in_use() -> dict[str, float]:
    """Peak of the GPU's allocator, or what the process has resident now, in GiB."""
    if torch.cuda.is_available():
        return {"cuda_allocated_peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3)}
    return {"process_rss_gib": round(psutil.Process().memory_info().rss / 2**30, 3)}
