"""What makes the run fail, because its figures would mean nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.encoders.students import ImageInputs
from limbeck.errors import GuardError

if TYPE_CHECKING:
    from torch import nn

TOLERANCE = 1e-3
"""Largest relative change of an output by its neighbours that counts as rounding."""


def check_batch_invariance(tower: nn.Module, inputs: ImageInputs, *, where: str) -> None:
    """A sample alone has the output that it has among others.

    Raises:
        GuardError: it has another one.
    """
    import torch

    def part(index: slice) -> ImageInputs:
        fields = vars(inputs).items()
        return ImageInputs(**{name: None if t is None else t[index] for name, t in fields})

    was = tower.training
    tower.eval()
    with torch.no_grad():
        together_BE = tower(inputs)[0]
        alone_BE = torch.cat([tower(part(slice(i, i + 1)))[0] for i in range(len(together_BE))])
    tower.train(was)
    apart = float((together_BE - alone_BE).abs().max() / together_BE.abs().max().clamp(min=1e-12))
    if not apart <= TOLERANCE:
        raise GuardError(
            f"a sample's output depends on its neighbours in the batch (by {apart:.1%})",
            where=where,
            mend="attend within a sample, not across the batch",
        )


def reached(
    trained_Sn: np.ndarray, control_Sn: np.ndarray, *, resamples: int, confidence: float
) -> dict[str, Any]:
    """Whether a control reaches what was trained, on n samples with S seeds each.

    The control reaches it unless the paired bootstrap interval of the difference of the means over
    seeds lies above 0.
    """
    from limbeck.evaluate.bootstrap import interval

    difference_n = trained_Sn.mean(0) - control_Sn.mean(0)
    n = len(difference_n)
    draws = np.random.default_rng(0).integers(0, n, (resamples, n))
    value = float(difference_n.mean())
    low, high = interval(value, difference_n[draws].mean(1), confidence)
    return {"difference": value, "low": low, "high": high, "n": n, "reached": low <= 0}


def check_controls(found: dict[str, dict[str, Any]], *, where: str) -> None:
    """Fail where an untrained student, or shuffled labels, do as well as the trained student.

    Raises:
        GuardError: with the control and the interval of the difference.
    """
    for control, row in found.items():
        if row["reached"]:
            raise GuardError(
                f"{control} reaches the trained student (difference {row['difference']:.3f}, "
                f"interval {row['low']:.3f} to {row['high']:.3f}, n {row['n']})",
                where=where,
                mend="train longer or on more data, or do not claim what this score says",
            )


def check_leaks(pairs: list[tuple[str, str]], *, where: str) -> None:
    """Fail where test pictures are in train as well.

    Raises:
        GuardError: with the first pair.
    """
    if pairs:
        test, train = pairs[0]
        raise GuardError(
            f"{len(pairs)} test pictures are in train too, the first {test!r} as {train!r}",
            where=where,
            mend="duplicates: drop leaves them out of train",
        )
