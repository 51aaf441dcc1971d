"""Appends the teacher's signals to a cache; what was flushed survives a kill."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import DataError, TeacherError, UsageError
from limbeck.records import TopK
from limbeck.signals.key import plain, require_same
from limbeck.signals.shard import (
    FORMAT,
    DamagedShardError,
    Shard,
    open_shard,
    shard_bytes,
    shard_name,
)
from limbeck.signals.statistics import statistics
from limbeck.store import write_atomic, write_error, write_json

INDEX = "signals.json"
"""Written last: which shards belong to the cache, with their checksums, and its statistics."""

log = logging.getLogger(__name__)


class SignalWriter:
    """A cache that is being made, in a folder that may hold a part of it already.

    Opening it removes torn shards and refuses those of another key. A shard is written after every
    `samples_per_shard` samples and at `flush`: a kill loses what was appended since, so what is
    `done` is asked here and nowhere else. One process at a time: the stage's lock sees to that.

    Args:
        folder: where the shards are.
        key: the global key, JSON-like: all but the samples that determines the numbers.
        k: tokens kept per row, at most.
        temperatures: at which the signals are exact.
        samples_per_shard: size of a shard.

    Raises:
        DataError: the folder holds shards of another key, or of another format.
    """

    def __init__(
        self,
        folder: Path,
        key: dict[str, Any],
        k: int,
        temperatures: Sequence[float],
        *,
        samples_per_shard: int = 64,
    ) -> None:
        self.folder, self.k = Path(folder), k
        self.temperatures = tuple(float(t) for t in temperatures)
        self.samples_per_shard = samples_per_shard
        self._key = plain({**key, "top_k": k, "temperatures": self.temperatures})
        self._pending: list[tuple[str, dict[str, Any], dict[str, NDArray[Any]]]] = []
        self._shards: dict[int, Shard] = {}
        self._places: dict[str, tuple[Shard, int]] = {}
        self._width: int | None = None
        self._recover()

    @property
    def done(self) -> Set[str]:
        """Ids of the samples that are on disk and need no labelling any more."""
        return self._places.keys()

    def append(
        self,
        sample_id: str,
        answer_ids: Sequence[int],
        signal: TopK,
        sample_key: dict[str, Any] | None = None,
    ) -> None:
        """Add one sample: row i of the signal is the distribution that predicts answer_ids[i].

        A sample that is done already stays as it is when answer and key are the same, so that a
        batch whose shard was cut by a kill can simply be appended again.

        Args:
            sample_id: of the sample.
            answer_ids: the scored tokens as columns of the shared vocabulary, with the end token.
            signal: as many rows as there are answer tokens.
            sample_key: what the numbers depend on for this sample (`key.sample_key`).

        Raises:
            DataError: the sample is in the cache with another answer or key, or is appended twice.
            UsageError: rows, k or temperatures do not fit.
            TeacherError: the signal holds what cannot be log-probabilities.
        """
        key = plain(sample_key or {})
        if sample_id in self._places:
            self._require_same(sample_id, answer_ids, key)
            return
        if any(sample_id == pending for pending, _, _ in self._pending):
            raise DataError("signals of this sample are appended twice", where=sample_id)
        arrays = {
            "ids": _numpy(signal.ids_NK, np.int32),
            "logp": _numpy(signal.logp_NK, np.float32),
            "log_sums": _numpy(signal.log_sums_NT, np.float32),
            "answer_ids": np.asarray(answer_ids, dtype=np.int32),
        }
        self._check(sample_id, arrays, signal.temperatures)
        self._pending.append((sample_id, key, arrays))
        if len(self._pending) >= self.samples_per_shard:
            self.flush()

    def flush(self) -> None:
        """Write the samples appended since the last shard as a shard.

        Raises:
            DataError: the disk does not take it; names the path.
        """
        if not self._pending:
            return
        number = next(n for n in range(len(self._shards) + 1) if n not in self._shards)
        path = self.folder / shard_name(number)
        ids = [sample_id for sample_id, _, _ in self._pending]
        lengths = [len(arrays["answer_ids"]) for _, _, arrays in self._pending]
        joined = {
            name: np.concatenate([arrays[name] for _, _, arrays in self._pending])
            for name in ("ids", "logp", "log_sums", "answer_ids")
        }
        joined["offsets"] = np.cumsum([0, *lengths], dtype=np.int64)
        keys = [key for _, key, _ in self._pending]
        write_atomic(path, shard_bytes(self._key, ids, keys, joined))
        self._add(number, open_shard(path))
        self._pending.clear()

    def close(self) -> dict[str, Any]:
        """Flush, and write the index without which no reader takes the cache.

        Returns:
            The statistics of the whole cache (`limbeck.signals.statistics`).
        """
        self.flush()
        shards = [self._shards[number] for number in sorted(self._shards)]
        summary = statistics(shards, self.temperatures)
        index = {
            "format": FORMAT,
            "key": self._key,
            "shards": {shard.path.name: shard.sha256 for shard in shards},
            "statistics": summary,
        }
        write_json(self.folder / INDEX, index)
        return summary

    def _recover(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(self.folder, error) from error
        for path in (self.folder / INDEX, *self.folder.glob(".signals*.tmp")):
            _remove(path)
        for path in sorted(self.folder.glob("signals-*.safetensors")):
            try:
                shard = open_shard(path)
            except DamagedShardError as error:
                log.warning("%s: %s; it is removed", path, error.what)
                _remove(path)
                continue
            require_same(shard.key, self._key, str(path))
            self._add(int(path.stem.removeprefix("signals-")), shard)

    def _add(self, number: int, shard: Shard) -> None:
        for position, sample_id in enumerate(shard.sample_ids):
            if sample_id in self._places:
                raise DataError(
                    "sample is in two shards",
                    where=f"{shard.path}: {sample_id}",
                    mend="remove this shard and label again",
                )
            self._places[sample_id] = (shard, position)
        self._shards[number] = shard
        self._width = shard.ids_MK.shape[1]

    def _require_same(self, sample_id: str, answer_ids: Sequence[int], key: dict[str, Any]) -> None:
        shard, position = self._places[sample_id]
        require_same(shard.sample_keys[position], key, f"{shard.path}: {sample_id}")
        if shard.answer_ids_M[shard.rows(position)].tolist() != list(answer_ids):
            raise DataError(
                "the cache holds signals of this sample for another answer",
                where=f"{shard.path}: {sample_id}",
                mend="remove this shard and label again",
            )

    def _check(
        self, sample_id: str, arrays: dict[str, NDArray[Any]], temperatures: tuple[float, ...]
    ) -> None:
        rows, tokens = arrays["ids"].shape[0], arrays["answer_ids"].shape[0]
        if rows != tokens:
            raise UsageError(
                f"the signal has {rows} rows for {tokens} answer tokens",
                where=sample_id,
                mend="score every answer token once, the end token included",
            )
        if tuple(temperatures) != self.temperatures:
            raise UsageError(
                f"the signal has temperatures {temperatures}, the cache {self.temperatures}",
                where=sample_id,
            )
        width = arrays["ids"].shape[1]
        if width > self.k or width != (self._width or width):
            raise UsageError(
                f"the signal keeps {width} tokens, the cache {self._width or self.k}",
                where=sample_id,
            )
        self._width = width
        if not (arrays["logp"] <= 1e-3).all() or not np.isfinite(arrays["log_sums"]).all():
            raise TeacherError(
                "the teacher's signal is not made of log-probabilities",
                where=sample_id,
                mend="make it with limbeck.signals.top_k.from_logits",
            )


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error


def _numpy(tensor: Any, dtype: Any) -> NDArray[Any]:
    """A tensor as an array; bfloat16 has no numpy type and goes through float32."""
    plain_tensor = tensor.detach().cpu()
    if plain_tensor.is_floating_point():
        plain_tensor = plain_tensor.double()
    return np.ascontiguousarray(plain_tensor.numpy().astype(dtype))
