"""What a recipe asks for that its own settings cannot give; checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from limbeck.errors import UsageError
from limbeck.losses import Loss
from limbeck.recipe import Arm, Recipe


def check_signals(recipe: Recipe, arms: Sequence[Arm]) -> None:
    """Refuse losses whose signal the label stage will not keep.

    Raises:
        UsageError: naming the loss and the setting that would help.
    """
    for arm in arms:
        for index, loss in enumerate(cast(Sequence[Loss], arm.recipe.losses)):
            where = (
                f"losses.{index}" if arm.name == "student" else f"arms.{arm.name}.losses.{index}"
            )
            if not loss.needs_signal:
                continue
            if recipe.label.signal == "none":
                raise UsageError(
                    "needs the teacher's distributions, and label.signal is none",
                    where=where,
                    mend="set label.signal to top_k, hidden or live",
                )
            if loss.target == "gold" and recipe.label.answers != "gold":
                raise UsageError(
                    "needs distributions along gold answers, and the teacher's own are labelled",
                    where=f"{where}.target",
                    mend="set label.answers to gold, or target to teacher",
                )
            temperature = getattr(loss, "temperature", None)
            stored = recipe.label.temperatures
            if recipe.label.signal == "top_k" and temperature not in (None, *stored):
                raise UsageError(
                    f"temperature {temperature} is not stored (stored: {list(stored)})",
                    where=f"{where}.temperature",
                    mend=f"add {temperature} to label.temperatures, or set label.signal to hidden",
                )


def device_of(asked: str) -> str:
    """The torch device that `auto` stands for, found without loading torch."""
    import platform

    if asked != "auto":
        return asked
    if Path("/dev/nvidiactl").exists():
        return "cuda"
    return "mps" if (platform.system(), platform.machine()) == ("Darwin", "arm64") else "cpu"
