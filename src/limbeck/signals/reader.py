"""Random access to a cache of top-k signals; memory-mapped, torch only for tensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limbeck.signals.cache import Cache
from limbeck.signals.top_k_coding import FORMAT, decode_rows, stored_temperatures

if TYPE_CHECKING:
    from limbeck.records import TopK


class SignalReader(Cache):
    """A finished cache of `TopK` signals; a `SignalSource`. Arguments and errors as `Cache`."""

    def __init__(self, folder: Path, expected_key: dict[str, Any] | None) -> None:
        super().__init__(folder, FORMAT, ("top_k", "temperatures"), expected_key)
        self.k: int = self.coding_key["top_k"]
        self.temperatures = tuple(float(t) for t in self.coding_key["temperatures"])
        self._stored = stored_temperatures(self.temperatures)
        self._columns = [self._stored.index(t) for t in self.temperatures]

    def rows(
        self, sample_id: str, answer_ids: Sequence[int]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Ids [N, K] increasing, log-probabilities [N, K], log-sums [N, T], log-tails [N, T].

        Raises:
            DataError: the sample is not held, or was scored on other answer tokens.
        """
        shard, rows = self.find(sample_id, answer_ids)
        ids, logp, log_sums = decode_rows(shard, rows, self._stored)
        log_tails = shard.arrays["log_tails"][rows].astype(np.float32)
        return ids, logp, log_sums[:, self._columns], log_tails[:, self._columns]

    def get(self, sample_id: str, answer_ids: Sequence[int]) -> TopK:
        """The signal of one sample, as tensors on the CPU; raises as `rows`."""
        return self.signal([sample_id], [answer_ids])

    def signal(self, sample_ids: Sequence[str], answers: Sequence[Sequence[int]]) -> TopK:
        """The signals of several samples, rows concatenated; raises as `rows`."""
        import torch

        from limbeck.records import TopK

        found = [self.rows(i, answer) for i, answer in zip(sample_ids, answers, strict=True)]
        ids, logp, log_sums, log_tails = (
            np.concatenate(arrays) for arrays in zip(*found, strict=True)
        )
        return TopK(
            torch.from_numpy(ids.astype(np.int64)),
            torch.from_numpy(logp),
            torch.from_numpy(log_sums),
            self.temperatures,
            torch.from_numpy(log_tails),
        )
