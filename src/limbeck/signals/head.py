"""The teacher's language head, stored once beside its hidden states: `head.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.errors import DataError
from limbeck.store import write_atomic

if TYPE_CHECKING:
    from torch import Tensor

HEAD = "head.safetensors"
_LARGEST_HALF = 6e4


def stored_weights(weight_VH: Tensor) -> Tensor:
    """The head as it is stored: 16-bit weights as they are, others in float16 if they fit."""
    import torch

    if weight_VH.dtype in (torch.bfloat16, torch.float16):
        return weight_VH
    fits = bool(weight_VH.abs().max() < _LARGEST_HALF)
    return weight_VH.to(torch.float16 if fits else torch.bfloat16)


def write_head(folder: Path, weight_VH: Tensor) -> Path:
    """Write the head; returns the file."""
    from safetensors.torch import save

    path = folder / HEAD
    write_atomic(path, save({"weight": stored_weights(weight_VH).cpu().contiguous()}))
    return path


def read_head(folder: Path, device: str) -> Tensor:
    """The weights [V, H] on a device; in float32 on a CPU, which is slow at less.

    Raises:
        DataError: the file cannot be read.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / HEAD
    try:
        weight_VH = load_file(path, device=device)["weight"]
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(
            f"the teacher's head cannot be read ({error})", where=str(path), mend="label again"
        ) from error
    return weight_VH.to(torch.float32) if weight_VH.device.type == "cpu" else weight_VH


def logits(hidden_NH: Tensor, weight_VH: Tensor) -> Tensor:
    """Float32 logits [N, V], multiplied in the precision of the weights."""
    return (hidden_NH.to(weight_VH) @ weight_VH.T).float()
