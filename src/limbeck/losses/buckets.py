"""A sparse teacher's distribution: its kept tokens and one bucket that holds all others."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from limbeck.errors import UsageError
from limbeck.losses.directions import RESOLUTION
from limbeck.records import TopK

if TYPE_CHECKING:
    from torch import Tensor

RULED_OUT = -1000.0
"""Log-probability of a token whose logit is -inf; exp of it is exactly 0."""


def check_kept(teacher: TopK, vocabulary: int) -> int:
    """How many tokens the teacher keeps.

    Raises:
        UsageError: more than there are.
    """
    kept = teacher.ids_NK.shape[-1]
    if kept > vocabulary:
        raise UsageError(
            f"the teacher's signal keeps {kept} tokens of a vocabulary of {vocabulary}"
        )
    return kept


def teacher_buckets(teacher: TopK, temperature: float, log_q: Tensor) -> Tensor:
    """The teacher's log-probabilities beside the student's `log_q`, in its precision.

    Args:
        teacher: N rows with K kept tokens.
        temperature: has to be stored.
        log_q: the student's on the kept tokens and then on the rest as a whole, [N, K + 1]; where
            every token of the vocabulary is kept there is no rest, [N, K].

    Raises:
        UsageError: the temperature is not stored.
    """
    import torch

    log_sums_N1 = stored_log_sums(teacher, temperature).to(log_q.dtype)
    log_p_NK = teacher.logp_NK.detach().to(log_q.dtype) / temperature - log_sums_N1
    log_p_NK = log_p_NK.masked_fill(log_p_NK == -math.inf, RULED_OUT)
    kept = log_p_NK.shape[-1]
    if log_q.shape[-1] == kept:
        return log_p_NK
    if teacher.log_tails_NT is None:
        tail_N1 = _tail(log_p_NK, log_sums_N1, log_q[:, kept:].detach())
    else:
        at = _place_of(teacher, temperature)
        tail_N1 = teacher.log_tails_NT.detach()[:, at : at + 1].to(log_q.dtype)
        tail_N1 = tail_N1.clamp(min=RULED_OUT)
    return torch.cat([log_p_NK, tail_N1], -1)


def _tail(log_p_NK: Tensor, log_sums_N1: Tensor, tail_log_q: Tensor) -> Tensor:
    """Log of the mass that the kept tokens leave over, [N, 1], of a signal without tails.

    It is a difference, so it has a resolution. Within it teacher and student count as equal, and
    no smaller tail is claimed: 0 would say that the teacher rules out all other tokens.
    """
    import torch

    best, at = log_p_NK.max(-1, keepdim=True)
    beside_best = -torch.expm1(best)  # 1 - p without cancellation where the teacher is certain
    tail_p = beside_best - log_p_NK.exp().scatter(-1, at, 0).sum(-1, keepdim=True)
    epsilon = torch.finfo(log_p_NK.dtype).eps
    resolution = RESOLUTION * epsilon * (beside_best.abs() + log_sums_N1.abs())
    same = (tail_p - tail_log_q.exp()).abs() <= resolution
    return torch.where(same, tail_log_q, tail_p.maximum(resolution.clamp(min=epsilon)).log())


def stored_log_sums(teacher: TopK, temperature: float) -> Tensor:
    """The log-sums of a stored temperature, [N, 1].

    Raises:
        UsageError: the temperature is not stored.
    """
    at = _place_of(teacher, temperature)
    return teacher.log_sums_NT.detach()[:, at : at + 1]


def _place_of(teacher: TopK, temperature: float) -> int:
    stored = teacher.temperatures
    if temperature not in stored:
        raise UsageError(
            f"the teacher's signal does not hold temperature {temperature:g}",
            mend=f"use one of {', '.join(f'{t:g}' for t in stored)}, or add it to "
            "label.temperatures and label again",
        )
    return stored.index(temperature)
