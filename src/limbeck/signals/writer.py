"""Appends the teacher's signals to a cache; what was flushed survives a kill."""

from __future__ import annotations

import logging
from collections.abc import Sequence, Set
from pathlib import Path
from typing import Any, Generic

import numpy as np

from limbeck.errors import DataError, UsageError
from limbeck.signals.coding import Arrays, Coding, Signal
from limbeck.signals.key import plain, require_same
from limbeck.signals.shard import (
    DamagedShardError,
    Shard,
    ShardSample,
    open_shard,
    shard_bytes,
    shard_name,
)
from limbeck.store import file_sha256, write_atomic, write_error, write_json

INDEX = "signals.json"
"""Written last: which files belong to the cache, with their checksums, and its statistics."""

log = logging.getLogger(__name__)


class SignalWriter(Generic[Signal]):
    """A cache that is being made, in a folder that may hold a part of it already.

    Opening it removes torn shards and refuses those of another key. A shard is written after every
    `samples_per_shard` samples and at `flush`: a kill loses what was appended since, so what is
    `done` is asked here and nowhere else. One process at a time: the stage's lock sees to that.

    Args:
        folder: where the shards are.
        key: the global key, JSON-like: all but the samples that determines the numbers.
        coding: which kind of signal, and how it is stored.
        samples_per_shard: size of a shard.

    Raises:
        DataError: the folder holds shards of another key, or of another format.
    """

    def __init__(
        self,
        folder: Path,
        key: dict[str, Any],
        coding: Coding[Signal],
        *,
        samples_per_shard: int = 64,
    ) -> None:
        self.folder, self.coding = Path(folder), coding
        self.samples_per_shard = samples_per_shard
        self._key = plain({**key, **coding.key})
        self._pending: list[tuple[ShardSample, Arrays]] = []
        self._shards: dict[int, Shard] = {}
        self._places: dict[str, tuple[Shard, int]] = {}
        self._recover()

    @property
    def done(self) -> Set[str]:
        """Ids of the samples that are on disk and need no labelling any more."""
        return self._places.keys()

    def append(
        self,
        sample_id: str,
        answer_ids: Sequence[int],
        signal: Signal,
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
            UsageError: rows, or what the coding asks of a signal, do not fit.
            TeacherError: the signal holds what the teacher cannot mean.
        """
        sample = ShardSample(sample_id, plain(sample_key or {}), tuple(map(int, answer_ids)))
        if sample_id in self._places:
            self._require_same(sample)
            return
        if any(sample_id == pending.id for pending, _ in self._pending):
            raise DataError("signals of this sample are appended twice", where=sample_id)
        arrays = self.coding.arrays(sample_id, signal)
        rows, tokens = len(next(iter(arrays.values()))), len(sample.answer_ids)
        if rows != tokens:
            raise UsageError(
                f"the signal has {rows} rows for {tokens} answer tokens",
                where=sample_id,
                mend="score every answer token once, the end token included",
            )
        self._pending.append((sample, arrays))
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
        samples = [sample for sample, _ in self._pending]
        joined = {
            name: np.concatenate([arrays[name] for _, arrays in self._pending])
            for name in self._pending[0][1]
        }
        answer_ids = [i for sample in samples for i in sample.answer_ids]
        arrays, parameters = self.coding.encode(joined, answer_ids)
        content = shard_bytes(self.coding.format, self._key, samples, arrays, parameters)
        write_atomic(path, content)
        self._add(number, open_shard(path, self.coding.format))
        self._pending.clear()

    def close(self) -> dict[str, Any]:
        """Flush, and write the index without which no reader takes the cache.

        Returns:
            samples, tokens, bytes and bytes_per_token of the shards, and what the coding tells.
        """
        self.flush()
        shards = [self._shards[number] for number in sorted(self._shards)]
        tokens = sum(shard.tokens for shard in shards)
        size = sum(shard.path.stat().st_size for shard in shards)
        summary = {
            "samples": len(self._places),
            "tokens": tokens,
            "bytes": size,
            "bytes_per_token": size / max(tokens, 1),
            **self.coding.statistics(shards),
        }
        files = self.coding.finish(self.folder)
        index = {
            "format": self.coding.format,
            "key": self._key,
            "shards": {shard.path.name: shard.sha256 for shard in shards},
            "files": {path.name: file_sha256(path) for path in files},
            "statistics": summary,
        }
        write_json(self.folder / INDEX, index)
        return summary

    def _recover(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(self.folder, error) from error
        # No write of another process can be under way: the stage is locked.
        for path in (self.folder / INDEX, *self.folder.glob(".*.tmp")):
            _remove(path)
        for path in sorted(self.folder.glob("signals-*.safetensors")):
            try:
                shard = open_shard(path, self.coding.format)
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
        self.coding.adopt(shard)

    def _require_same(self, sample: ShardSample) -> None:
        shard, position = self._places[sample.id]
        require_same(shard.sample_keys[position], sample.key, f"{shard.path}: {sample.id}")
        if tuple(shard.answer_ids(shard.rows(position)).tolist()) != sample.answer_ids:
            raise DataError(
                "the cache holds signals of this sample for another answer",
                where=f"{shard.path}: {sample.id}",
                mend="remove this shard and label again",
            )


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(path, error) from error
