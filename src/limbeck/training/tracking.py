"""Where rows of metrics.jsonl go as well: the progress line, and a tracker if one is chosen."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

from limbeck.errors import UsageError


class Tracker(Protocol):
    """Where rows of metrics.jsonl are sent as well."""

    def log(self, row: dict[str, Any]) -> None:
        """Send one row."""
        ...

    def finish(self) -> None:
        """Flush and close."""
        ...


def open_tracker(kind: str, title: str, folder: Path) -> Tracker | None:
    """The tracker that the recipe names, or None.

    Raises:
        UsageError: its package is not installed.
    """
    if kind == "none":
        return None
    module_name = "torch.utils.tensorboard" if kind == "tensorboard" else kind
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UsageError(
            f"{kind} is not installed",
            where="training.tracker",
            mend=f"pip install 'limbeck[{kind}]', or tracker: none",
        ) from error
    if kind == "tensorboard":
        return _TensorBoard(module.SummaryWriter(str(folder / "tensorboard")))
    return _Run(module, title)


class _Run:
    """trackio and wandb share these three calls."""

    def __init__(self, module: Any, title: str) -> None:
        self._module = module
        module.init(project="limbeck", name=title)

    def log(self, row: dict[str, Any]) -> None:
        self._module.log(flatten(row), step=row["step"])

    def finish(self) -> None:
        self._module.finish()


class _TensorBoard:
    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def log(self, row: dict[str, Any]) -> None:
        for name, value in flatten(row).items():
            self._writer.add_scalar(name, value, row["step"])

    def finish(self) -> None:
        self._writer.close()


def flatten(row: dict[str, Any]) -> dict[str, float]:
    """`{"losses": {"a": 1}}` becomes `{"losses/a": 1}`."""
    flat: dict[str, float] = {}
    for name, value in row.items():
        if isinstance(value, dict):
            flat |= {f"{name}/{key}": inner for key, inner in value.items()}
        elif not isinstance(value, list):  # a matrix stays in metrics.jsonl
            flat[name] = value
    return flat


def note_of(row: dict[str, Any]) -> str:
    """What stands beside the progress bar."""
    parts = ", ".join(f"{name} {value:.4f}" for name, value in row["losses"].items())
    memory = next(f"{v:.2f} GiB" for name, v in row.items() if name.endswith("_gib"))
    return f"loss {row['loss']:.4f} ({parts})  {row['tokens_per_second']:.0f} tokens/s  {memory}"
