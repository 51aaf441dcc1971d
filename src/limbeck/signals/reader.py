"""Random access to a finished cache of teacher signals; memory-mapped, torch only for tensors."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import DataError
from limbeck.signals.key import MEND, require_same
from limbeck.signals.shard import Shard, open_shard
from limbeck.signals.writer import INDEX

if TYPE_CHECKING:
    from limbeck.records import TopK


class SignalReader:
    """A finished cache, checked when it is opened; a `SignalSource`.

    Args:
        folder: where the shards are.
        expected_key: the global key that this run would label with.

    Raises:
        DataError: the cache is not finished, a shard is missing, damaged or foreign, or the key
            is another; names the file or the part of the key.
    """

    def __init__(self, folder: Path, expected_key: dict[str, Any]) -> None:
        self.folder = Path(folder)
        index = _read_index(self.folder / INDEX)
        stored = dict(index["key"])
        self.k: int = stored.pop("top_k")
        self.temperatures = tuple(float(t) for t in stored.pop("temperatures"))
        require_same(stored, expected_key, str(self.folder))
        self.statistics: dict[str, Any] = index["statistics"]
        self._places: dict[str, tuple[Shard, int]] = {}
        for name, sha256 in index["shards"].items():
            self._add(self.folder / name, sha256, index["key"])
        stray = {path.name for path in self.folder.glob("signals-*")} - set(index["shards"])
        if stray:
            raise DataError(
                f"{min(stray)} does not belong to the cache", where=str(self.folder), mend=MEND
            )

    @property
    def sample_ids(self) -> list[str]:
        """Every sample of the cache, in the order in which it was labelled."""
        return list(self._places)

    def __contains__(self, sample_id: str) -> bool:
        return sample_id in self._places

    def __len__(self) -> int:
        return len(self._places)

    def check_samples(self, sample_keys: Mapping[str, dict[str, Any]]) -> None:
        """Check before training that these samples are what they were when they were labelled.

        Raises:
            DataError: a sample is not held, or its prompt, images or text is another.
        """
        for sample_id, expected in sample_keys.items():
            shard, position = self._place(sample_id)
            where = f"{self.folder}: {sample_id}"
            require_same(shard.sample_keys[position], expected, where)

    def rows(
        self, sample_id: str, answer_ids: Sequence[int]
    ) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.float32]]:
        """Ids [N, K], log-probabilities [N, K] and log-sums [N, T], as views into the file.

        Raises:
            DataError: the sample is not held, or was scored on other answer tokens.
        """
        shard, position = self._place(sample_id)
        rows = shard.rows(position)
        self._require_answer(sample_id, shard.answer_ids_M[rows], answer_ids)
        return shard.ids_MK[rows], shard.logp_MK[rows], shard.log_sums_MT[rows]

    def get(self, sample_id: str, answer_ids: Sequence[int]) -> TopK:
        """The signal of one sample, as tensors on the CPU; raises as `rows`."""
        return self.signal([sample_id], [answer_ids])

    def signal(self, sample_ids: Sequence[str], answers: Sequence[Sequence[int]]) -> TopK:
        """The signals of several samples, rows concatenated; raises as `rows`."""
        import torch

        from limbeck.records import TopK

        found = [self.rows(i, answer) for i, answer in zip(sample_ids, answers, strict=True)]
        ids, logp, log_sums = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return TopK(
            torch.from_numpy(ids.astype(np.int64)),
            torch.from_numpy(logp),
            torch.from_numpy(log_sums),
            self.temperatures,
        )

    def _add(self, path: Path, sha256: str, key: dict[str, Any]) -> None:
        if not path.is_file():
            raise DataError(
                "shard of the teacher's signals is missing", where=str(path), mend="label again"
            )
        shard = open_shard(path)
        require_same(shard.key, key, str(path))
        if shard.sha256 != sha256:
            raise DataError("shard is not the one of this cache", where=str(path), mend=MEND)
        for position, sample_id in enumerate(shard.sample_ids):
            if sample_id in self._places:
                raise DataError("sample is in two shards", where=f"{path}: {sample_id}", mend=MEND)
            self._places[sample_id] = (shard, position)

    def _place(self, sample_id: str) -> tuple[Shard, int]:
        try:
            return self._places[sample_id]
        except KeyError:
            raise DataError(
                "the cache holds no signals of this sample",
                where=f"{self.folder}: {sample_id}",
                mend=MEND,
            ) from None

    def _require_answer(
        self, sample_id: str, stored: NDArray[np.int32], asked: Sequence[int]
    ) -> None:
        where = f"{self.folder}: {sample_id}"
        if len(stored) != len(asked):
            raise DataError(
                f"signals for {len(stored)} answer tokens, asked for {len(asked)}",
                where=where,
                mend="score the whole answer with its end token on both sides, or label again",
            )
        differs = np.flatnonzero(stored != np.asarray(asked))
        if differs.size:
            at = int(differs[0])
            raise DataError(
                f"answer token {at} is {int(stored[at])} in the cache and {int(asked[at])} here",
                where=where,
                mend=MEND,
            )


def _read_index(path: Path) -> dict[str, Any]:
    try:
        index = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(
            "the cache of the teacher's signals is not finished",
            where=str(path.parent),
            mend="run the label stage again; what it has is kept",
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path), mend="label again") from error
    names = {"key": dict, "shards": dict, "statistics": dict}
    if not isinstance(index, dict) or not all(
        isinstance(index.get(name), kind) for name, kind in names.items()
    ):
        raise DataError("is not the index of a signal cache", where=str(path), mend="label again")
    if not {"top_k", "temperatures"} <= set(index["key"]):
        raise DataError("index lacks k or temperatures", where=str(path), mend="label again")
    return index
