"""The k most probable tokens of each row, exact at every temperature that is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from limbeck.errors import TeacherError, UsageError
from limbeck.records import TopK

if TYPE_CHECKING:
    from torch import Tensor

ROWS_AT_ONCE = 128
"""Rows whose float32 copies exist at one time."""


def from_logits(logits_NV: Tensor, k: int, temperatures: Sequence[float]) -> TopK:
    """Keep the k most probable tokens of each row, most probable first.

    Log-probabilities at T = 1 and the log-sums log sum_v exp(logp_v / T) are over all V columns,
    in float32 (float64 stays float64), so that kept probabilities are exact at every T given; the
    mass of the others is summed from their own columns.

    Args:
        logits_NV: over the shared vocabulary: padding rows of the head are already dropped.
        k: how many to keep; all V where the vocabulary is smaller.
        temperatures: at which the result is exact.

    Raises:
        UsageError: k or a temperature is not positive, or no temperature is given.
        TeacherError: a row holds NaN or +inf, or nothing but -inf.
    """
    import torch

    if k < 1:
        raise UsageError(f"top_k is {k}", mend="keep at least one token")
    if not temperatures or min(temperatures) <= 0:
        raise UsageError(f"temperatures are {list(temperatures)}", mend="give positive numbers")
    kept = min(k, logits_NV.shape[-1])
    ids, logp, log_sums, log_tails = [], [], [], []
    for rows in logits_NV.detach().split(ROWS_AT_ONCE):
        exact = rows if rows.dtype == torch.float64 else rows.float()
        best, at = exact.max(-1, keepdim=True)
        below = exact - best
        # Sums without the best token, for log1p: 1 + sum would round a certain teacher's tail off.
        log_sum = below.exp().scatter(-1, at, 0).sum(-1, keepdim=True).log1p()
        if not (best + log_sum).isfinite().all():
            raise TeacherError(
                "the teacher's logits are not finite",
                mend="load it in bfloat16 or float32 instead of float16, or without quantization",
            )
        top = below.topk(kept, dim=-1)
        rest = below.scatter(-1, top.indices, -torch.inf)
        ids.append(top.indices)
        logp.append(top.values - log_sum)
        tempered = [
            (below / t).exp().scatter(-1, at, 0).sum(-1, keepdim=True).log1p() - log_sum / t
            for t in temperatures
        ]
        log_sums.append(torch.cat(tempered, -1))
        log_tails.append(
            torch.cat(
                [
                    (rest / t).logsumexp(-1, keepdim=True) - log_sum / t - tempered[at]
                    for at, t in enumerate(temperatures)
                ],
                -1,
            )
        )
    return TopK(
        torch.cat(ids),
        torch.cat(logp),
        torch.cat(log_sums),
        tuple(temperatures),
        torch.cat(log_tails),
    )


def collate(signals: Sequence[TopK]) -> TopK:
    """The rows of several signals one after the other.

    Raises:
        UsageError: they differ in k or in temperatures.
    """
    import torch

    first = signals[0]
    for signal in signals[1:]:
        if signal.temperatures != first.temperatures:
            raise UsageError(
                f"signals for temperatures {signal.temperatures} and {first.temperatures} "
                "do not go together"
            )
        if signal.ids_NK.shape[-1] != first.ids_NK.shape[-1]:
            raise UsageError(
                f"signals with k = {signal.ids_NK.shape[-1]} and k = {first.ids_NK.shape[-1]} "
                "do not go together"
            )
    log_tails = [s.log_tails_NT for s in signals if s.log_tails_NT is not None]
    return TopK(
        torch.cat([signal.ids_NK for signal in signals]),
        torch.cat([signal.logp_NK for signal in signals]),
        torch.cat([signal.log_sums_NT for signal in signals]),
        first.temperatures,
        torch.cat(log_tails) if len(log_tails) == len(signals) else None,
    )
