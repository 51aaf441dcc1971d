"""Which tokens' rows of the head's weight gradient are worth computing.

With G [N, V] the gradient of the logits and h [N, H] the head's inputs, token v's row of the weight
gradient G^T h is h^T g_v. Most of |G|^2 lies in few columns once a student is past its first steps:
its own and its teacher's likely tokens. Leaving out the set D of columns that hold at most
tolerance^2 of |G|^2 changes the weight gradient by

    |sum_D|_F^2 = sum_{v in D} |h^T g_v|^2 <= |h|_2^2 sum_{v in D} |g_v|^2
                <= (tolerance |h|_2 |G|_F)^2,

and summed over chunks, micro-batches or ranks, by the Cauchy-Schwarz inequality, by at most
tolerance |h|_F |G|_F of all their rows. For the gradient of the inputs, G W, the norm of W would
stand where that of h does, and it grows with V: they are never filtered.
"""

from __future__ import annotations

import torch
from torch import Tensor

STEPS = 10
"""Halvings of the range, of about 2^17, in which the threshold lies: to a hundredth."""

FOR_ROUNDING = 0.99
"""Energies are of G before it is rounded to bf16, by 2^-9 at most."""

SPARSE = 1 / 3
"""Share of the columns above which gathering them costs more than it spares."""


def kept_columns(energy_V: Tensor, tolerance: float) -> Tensor | None:
    """Indices [K] of the columns to keep, ascending, or None for all of them.

    All but the smallest columns that together hold `tolerance`^2 of the energy, found without
    sorting. Where the energy is not finite, or too small to be summed, all are kept.

    Args:
        energy_V: |g_v|^2 of each column.
        tolerance: inside (0, 1).
    """
    total = energy_V.sum()
    smallest = torch.finfo(energy_V.dtype).tiny / torch.finfo(energy_V.dtype).eps
    known = total.isfinite() & (total > smallest)
    budget = torch.where(known, total * (tolerance**2 * FOR_ROUNDING), torch.nan)
    # All columns of 1/V of the budget may go, none that exceeds it.
    low, high = (budget / len(energy_V)).log2(), budget.log2()
    for _ in range(STEPS):
        middle = (low + high) / 2
        small_V = torch.le(energy_V, middle.exp2(), out=torch.empty_like(energy_V))
        fits = small_V.mul_(energy_V).sum() <= budget
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    # The other way round NaN would be left out, and nobody would learn of it.
    kept_V = (energy_V <= low.exp2()).logical_not_()
    kept_K = kept_V.nonzero().squeeze(-1)
    return None if len(kept_K) > SPARSE * len(energy_V) else kept_K
