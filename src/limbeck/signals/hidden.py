"""Random access to a cache of hidden states, as whole distributions over the vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limbeck.signals.cache import Cache
from limbeck.signals.head import logits, read_head
from limbeck.signals.hidden_coding import FORMAT, scales_of

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.records import Dense


class HiddenReader(Cache):
    """A finished cache of hidden states; a `SignalSource`.

    The head is loaded onto `device` when the first signal is asked for. Other arguments and errors
    as `Cache`.
    """

    def __init__(
        self, folder: Path, expected_key: dict[str, Any] | None, *, device: str = "cpu"
    ) -> None:
        super().__init__(folder, FORMAT, ("signal", "vocabulary"), expected_key)
        self.vocabulary: int = self.coding_key["vocabulary"]
        self._device = device

    @cached_property
    def _weight_VH(self) -> Tensor:
        return read_head(self.folder, self._device)

    def rows(self, sample_id: str, answer_ids: Sequence[int]) -> NDArray[np.float32]:
        """The hidden states [N, H] that predict the answer's tokens.

        Raises:
            DataError: the sample is not held, or was scored on other answer tokens.
        """
        shard, rows = self.find(sample_id, answer_ids)
        return shard.arrays["hidden"][rows] * scales_of(shard)

    def signal(self, sample_ids: Sequence[str], answers: Sequence[Sequence[int]]) -> Dense:
        """The distributions of several samples, rows concatenated; raises as `rows`."""
        import torch

        from limbeck.records import Dense

        found = [self.rows(i, answer) for i, answer in zip(sample_ids, answers, strict=True)]
        with torch.no_grad():
            return Dense(logits(torch.from_numpy(np.concatenate(found)), self._weight_VH))
