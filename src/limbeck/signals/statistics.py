"""What a cache of top-k signals is like: its cost, and how much of the teacher it keeps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.signals.shard import Shard


def statistics(shards: Iterable[Shard], temperatures: Sequence[float]) -> dict[str, Any]:
    """Sizes and means over all answer tokens of a cache.

    Returns:
        samples, tokens, bytes, bytes_per_token; tail_mass: for each temperature the mean mass that
        was not kept; entropy_nats: mean at T = 1 with the tail taken as one token, so a lower
        bound; agreement: share of tokens that the teacher finds most probable itself (with
        greedy decoding it is 1, ties counted as agreement).
    """
    samples = tokens = size = 0
    tail, entropy, agreed = np.zeros(len(temperatures)), 0.0, 0
    for shard in shards:
        samples += len(shard.sample_ids)
        tokens += len(shard.answer_ids_M)
        size += shard.path.stat().st_size
        logp_MK = shard.logp_MK.astype(np.float64)
        for at, temperature in enumerate(temperatures):
            tail[at] += _tail(logp_MK / temperature - shard.log_sums_MT[:, at : at + 1]).sum()
        entropy += _entropy(logp_MK).sum()
        agreed += agreement(shard.ids_MK, shard.logp_MK, shard.answer_ids_M).sum()
    per_token = 1 / max(tokens, 1)
    return {
        "samples": samples,
        "tokens": tokens,
        "bytes": size,
        "bytes_per_token": size * per_token,
        "tail_mass": {f"{t:g}": float(tail[i] * per_token) for i, t in enumerate(temperatures)},
        "entropy_nats": float(entropy * per_token),
        "agreement": float(agreed * per_token),
    }


def agreement(
    ids_NK: NDArray[Any], logp_NK: NDArray[Any], answer_ids_N: NDArray[Any]
) -> NDArray[np.bool_]:
    """For each row whether no token is more probable to the teacher than the answer's."""
    best = logp_NK == logp_NK.max(axis=1, keepdims=True)
    return (best & (ids_NK == answer_ids_N[:, None])).any(axis=1)


def _tail(log_p_MK: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(1 - np.exp(log_p_MK).sum(axis=1), 0, 1)


def _entropy(log_p_MK: NDArray[np.float64]) -> NDArray[np.float64]:
    tail = _tail(log_p_MK)
    kept = np.where(np.isneginf(log_p_MK), 0, log_p_MK)  # 0 log 0 = 0
    return -(np.exp(log_p_MK) * kept).sum(axis=1) - tail * np.log(np.where(tail > 0, tail, 1))
