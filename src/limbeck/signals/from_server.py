"""What an inference server tells of its distributions, made into a `TopK`.

A server tells a few tokens a row with their log-probabilities at T = 1, over its whole vocabulary:
at least the likeliest, and the one that stands in the answer even where it is not among them. The
mass of the others is what is left of 1, and other temperatures than 1 cannot be known.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from limbeck.errors import TeacherError
from limbeck.records import TopK

LARGEST_SUM = 1.01
"""Kept probabilities may sum to more than 1 by what half-precision logits round, and no more."""

SMALLEST_TAIL = 2.0**-23
"""Of mass. Servers add and round in float32: a smaller rest cannot be told from this, and 0 would
claim that all other tokens are ruled out."""


def top_k_from_rows(
    rows: Sequence[Mapping[int, float]], k: int, chosen: Sequence[int] | None = None
) -> TopK:
    """Rows of exactly k tokens, most probable first, at T = 1.

    Args:
        rows: for each answer token what the server told before it: log-probabilities by column of
            the shared vocabulary (a token's id, where ids run from 0 without a gap). Padding rows
            of the head are left out by whoever makes them.
        k: how many are kept.
        chosen: the answer's tokens. Where given, each is kept, in the last place if it is not among
            the k most probable (with k = 1 only the most probable is kept).

    Returns:
        float32; log-sums are 0, and log-tails are of what the kept tokens leave of 1.

    Raises:
        TeacherError: a row has fewer than k tokens, or what cannot be log-probabilities of
            different tokens; a chosen token is not told.
    """
    import torch

    assert k >= 1, k
    ids_NK = np.zeros((len(rows), k), dtype=np.int64)
    logp_NK = np.zeros((len(rows), k))
    for n, row in enumerate(rows):
        best = _most_probable(row, k, n)
        token = None if chosen is None else chosen[n]
        if token is not None and k > 1 and token not in best:
            if token not in row:
                raise TeacherError(
                    f"the server gives no log-probability of token {token}, which is the answer's",
                    where=f"answer token {n}",
                )
            best[-1] = token
        ids_NK[n] = best
        logp_NK[n] = [row[column] for column in best]
    # Without the best: 1 - p is exact where the server is certain, 1 - (all kept) is not.
    tails_N = -np.expm1(logp_NK[:, 0]) - np.exp(logp_NK[:, 1:]).sum(1)
    if (tails_N < 1 - LARGEST_SUM).any():
        n = int(tails_N.argmin())
        raise TeacherError(
            f"the server's probabilities sum to {1 - tails_N[n]:.4g}", where=f"answer token {n}"
        )
    log_tails_N1 = np.log(tails_N.clip(SMALLEST_TAIL, 1))[:, None]
    return TopK(
        torch.from_numpy(ids_NK),
        torch.from_numpy(logp_NK).float(),
        torch.zeros(len(rows), 1),
        (1.0,),
        torch.from_numpy(log_tails_N1).float(),
    )


def fewer(signal: TopK, k: int, chosen: Sequence[int]) -> TopK:
    """A signal of `top_k_from_rows` with fewer tokens a row; chosen ones are kept as there."""
    import torch

    ids_NK, logp_NK = signal.ids_NK, signal.logp_NK
    if ids_NK.shape[-1] == k:
        return signal
    assert signal.log_tails_NT is not None, "it was made with tails"
    order_NK = (-logp_NK).argsort(dim=-1, stable=True)
    if k > 1:  # the chosen token in the last place that is kept, if it came later
        chosen_N1 = torch.tensor(list(chosen), device=ids_NK.device)[:, None]
        is_chosen_NK = ids_NK.gather(-1, order_NK) == chosen_N1
        late_N = is_chosen_NK[:, k:].any(-1)
        at_N = is_chosen_NK.int().argmax(-1)
        rows = torch.arange(len(ids_NK), device=ids_NK.device)[late_N]
        last, late = order_NK[rows, k - 1].clone(), order_NK[rows, at_N[late_N]].clone()
        order_NK[rows, k - 1], order_NK[rows, at_N[late_N]] = late, last
    dropped_N1 = logp_NK.gather(-1, order_NK[:, k:]).logsumexp(-1, keepdim=True)
    return TopK(
        ids_NK.gather(-1, order_NK[:, :k]),
        logp_NK.gather(-1, order_NK[:, :k]),
        signal.log_sums_NT,
        signal.temperatures,
        torch.logaddexp(signal.log_tails_NT, dropped_N1),
    )


def mean_of_kept(signal: TopK, chosen: Sequence[int]) -> float | None:
    """Mean log-probability of the answer's tokens; None where one of them is not kept."""
    import torch

    is_chosen_NK = signal.ids_NK == torch.tensor(list(chosen), device=signal.ids_NK.device)[:, None]
    if not len(signal) or not bool(is_chosen_NK.any(-1).all()):
        return None
    return float(signal.logp_NK[is_chosen_NK].mean())


def mean_log_probability(
    rows: Sequence[Mapping[int, float]], chosen: Sequence[int]
) -> float | None:
    """Of the answer's tokens, over all of them; None where the server did not tell one."""
    if not rows or any(token not in row for row, token in zip(rows, chosen, strict=True)):
        return None
    return sum(row[token] for row, token in zip(rows, chosen, strict=True)) / len(rows)


def retokenised_otherwise(written: Sequence[int], encoded: Sequence[int]) -> str | None:
    """Why distributions along the tokens that were written do not fit the answer's text, if so.

    Training encodes the text again. A model may have written the same text in other tokens, and
    rows of distributions that belong to those are rows of something else.

    Args:
        written: the tokens that the model wrote, with the end token.
        encoded: those of its text, with the end token (`Encoder.answer_tokens`).

    Returns:
        The reason, to be shown with the sample; None where they are the same.
    """
    if list(written) == list(encoded):
        return None
    pairs = enumerate(zip(written, encoded, strict=False))
    shorter = min(len(written), len(encoded))
    at = next((n for n, (ours, theirs) in pairs if ours != theirs), shorter)
    return f"written in other tokens than its text has, from token {at} on"


def _most_probable(row: Mapping[int, float], k: int, n: int) -> list[int]:
    if len(row) < k:
        raise TeacherError(
            f"the server gives {len(row)} log-probabilities a token, not {k}",
            where=f"answer token {n}",
            mend=f"set label.top_k to {len(row)} or less, or let the server give more",
        )
    if any(math.isnan(logp) or logp > LARGEST_SUM - 1 for logp in row.values()):
        raise TeacherError(
            "what the server gives is not made of log-probabilities", where=f"answer token {n}"
        )
    # Ties by column, so that two runs keep the same.
    best = sorted(row, key=lambda column: (-row[column], column))[:k]
    if row[best[0]] == -math.inf:
        raise TeacherError("the server rules out every token", where=f"answer token {n}")
    return best
