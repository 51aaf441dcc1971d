"""What the loop reports of itself: memory, and the line beside the progress bar."""

from __future__ import annotations

from typing import Any

import psutil
import torch


def note_of(row: dict[str, Any]) -> str:
    """What stands beside the progress bar."""
    parts = ", ".join(f"{name} {value:.4f}" for name, value in row["losses"].items())
    memory = next(f"{v:.2f} GiB" for name, v in row.items() if name.endswith("_gib"))
    return f"loss {row['loss']:.4f} ({parts})  {row['tokens_per_second']:.0f} tokens/s  {memory}"


def memory_now() -> dict[str, float]:
    """Memory by its kind, GiB: the peak that CUDA allocated, or what the process holds."""
    if torch.cuda.is_available():
        return {"cuda_allocated_peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 3)}
    return {"process_rss_gib": round(psutil.Process().memory_info().rss / 2**30, 3)}
