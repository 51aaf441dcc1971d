"""Checkpoints: weights, optimiser and random state in safetensors; never a pickle.

A checkpoint is written to `step-N-partial`, flushed, given a manifest with checksums and renamed to
`step-N`; a folder that lacks that name, or whose checksums fail, is not a checkpoint.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from limbeck.store import MANIFEST, file_sha256, fsync_tree, write_error, write_json


def save(
    folder: Path,
    step: int,
    *,
    weights: Mapping[str, Tensor],
    optimizers: Iterable[torch.optim.Optimizer],
    state: Mapping[str, Any],
) -> Path:
    """Write the checkpoint of a finished step and remove older ones.

    Raises:
        DataError: the write failed; the previous checkpoint is intact.
    """
    final = folder / f"step-{step:07d}"
    partial = folder / f"{final.name}-partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        _save_tensors(partial / "weights.safetensors", weights)
        groups: list[list[dict[str, Any]]] = []
        for number, optimizer in enumerate(optimizers):
            tensors, group = _flatten(optimizer)
            _save_tensors(partial / f"optimizer-{number}.safetensors", tensors)
            groups.append(group)
        _save_tensors(partial / "random.safetensors", random_state())
        write_json(partial / "state.json", {"step": step, "groups": groups, **state})
        files = {path.name: file_sha256(path) for path in sorted(partial.iterdir())}
        write_json(partial / MANIFEST, {"step": step, "files": files})
        fsync_tree(partial)
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    except (OSError, SafetensorError) as error:
        cause = error if isinstance(error, OSError) else OSError(str(error))
        raise write_error(partial, cause) from error
    for other in folder.iterdir():
        if other != final:
            shutil.rmtree(other, ignore_errors=True)
    return final


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint; torn ones are removed."""
    if not folder.is_dir():
        return None
    for candidate in sorted(folder.iterdir(), reverse=True):
        if not candidate.name.endswith("-partial") and _is_whole(candidate):
            return candidate
        shutil.rmtree(candidate, ignore_errors=True)
    return None


def load(
    checkpoint: Path, *, weights: Mapping[str, Tensor], optimizers: Iterable[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Restore weights (in place), optimisers and random state; returns the saved `state`."""
    stored = load_file(checkpoint / "weights.safetensors")
    assert stored.keys() == weights.keys(), "checkpoint of another model"
    with torch.no_grad():
        for name, tensor in weights.items():
            tensor.copy_(stored[name])
    state = json.loads((checkpoint / "state.json").read_text())
    for number, optimizer in enumerate(optimizers):
        _unflatten(
            optimizer,
            load_file(checkpoint / f"optimizer-{number}.safetensors"),
            state["groups"][number],
        )
    set_random_state(load_file(checkpoint / "random.safetensors"))
    return state


def random_state() -> dict[str, Tensor]:
    """The state of every generator that training may draw from."""
    numpy_state: Any = np.random.get_state(legacy=True)
    python_state = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor(numpy_state[1].astype(np.int64)),
        "numpy_position": torch.tensor(numpy_state[2]),
        "python": torch.tensor(python_state[1], dtype=torch.int64),
    }
    if torch.cuda.is_available():
        for index, tensor in enumerate(torch.cuda.get_rng_state_all()):
            state[f"cuda_{index}"] = tensor
    return state


def set_random_state(state: Mapping[str, Tensor]) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["torch"])
    keys = state["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(state["numpy_position"]), 0, 0.0))
    random.setstate((3, tuple(state["python"].tolist()), None))
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda_{index}" in state:
                torch.cuda.set_rng_state(state[f"cuda_{index}"], index)


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({n: t.detach().contiguous().cpu().clone() for n, t in tensors.items()}, path)


def _flatten(
    optimizer: torch.optim.Optimizer,
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    state = optimizer.state_dict()
    tensors = {
        f"{index}.{name}": value if isinstance(value, Tensor) else torch.tensor(value)
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, state["param_groups"]


def _unflatten(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], groups: list[dict[str, Any]]
) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _is_whole(checkpoint: Path) -> bool:
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        return all(file_sha256(checkpoint / n) == sha for n, sha in manifest["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
