"""A finished cache of teacher signals, checked when it is opened; what both readers share."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import DataError
from limbeck.signals.key import MEND, require_same
from limbeck.signals.shard import Shard, open_shard
from limbeck.signals.writer import INDEX
from limbeck.store import file_sha256


class Cache:
    """The shards of a finished cache, by sample.

    Args:
        folder: where the shards are.
        format_name: that of the coding which wrote them.
        coding_key: names of the parts of the key that belong to the coding.
        expected_key: the global key that this run would label with; None takes the stored one,
            which is for looking at a cache, never for training on it.

    Raises:
        DataError: the cache is not finished, of another kind, a shard is missing, damaged or
            foreign, or the key is another; names the file or the part of the key.
    """

    def __init__(
        self,
        folder: Path,
        format_name: str,
        coding_key: Sequence[str],
        expected_key: dict[str, Any] | None,
    ) -> None:
        self.folder = Path(folder)
        index = read_index(self.folder)
        if index["format"] != format_name:
            raise DataError(
                f"format {index['format']!r} is not {format_name!r}",
                where=str(self.folder / INDEX),
                mend=MEND,
            )
        stored = dict(index["key"])
        absent = [name for name in coding_key if name not in stored]
        if absent:
            raise DataError(
                f"index lacks {' and '.join(absent)}",
                where=str(self.folder / INDEX),
                mend="label again",
            )
        self.coding_key = {name: stored.pop(name) for name in coding_key}
        self.key: dict[str, Any] = stored
        if expected_key is not None:
            require_same(stored, expected_key, str(self.folder))
        self.statistics: dict[str, Any] = index["statistics"]
        self.shards: list[Shard] = []
        self._places: dict[str, tuple[Shard, int]] = {}
        for name, sha256 in index["files"].items():
            self._require_file(self.folder / name, sha256)
        for name, sha256 in index["shards"].items():
            self._add(self.folder / name, sha256, index["key"], format_name)
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

    def answer_ids(self, sample_id: str) -> list[int]:
        """The answer's tokens, as columns of the shared vocabulary."""
        shard, position = self._place(sample_id)
        return shard.answer_ids(shard.rows(position)).tolist()

    def find(self, sample_id: str, answer_ids: Sequence[int]) -> tuple[Shard, slice]:
        """Where the rows of a sample are.

        Raises:
            DataError: the sample is not held, or was scored on other answer tokens.
        """
        shard, position = self._place(sample_id)
        rows = shard.rows(position)
        self._require_answer(sample_id, shard.answer_ids(rows), answer_ids)
        return shard, rows

    def _add(self, path: Path, sha256: str, key: dict[str, Any], format_name: str) -> None:
        if not path.is_file():
            raise DataError(
                "shard of the teacher's signals is missing", where=str(path), mend="label again"
            )
        shard = open_shard(path, format_name)
        require_same(shard.key, key, str(path))
        if shard.sha256 != sha256:
            raise DataError("shard is not the one of this cache", where=str(path), mend=MEND)
        for position, sample_id in enumerate(shard.sample_ids):
            if sample_id in self._places:
                raise DataError("sample is in two shards", where=f"{path}: {sample_id}", mend=MEND)
            self._places[sample_id] = (shard, position)
        self.shards.append(shard)

    def _require_file(self, path: Path, sha256: str) -> None:
        if not path.is_file():
            raise DataError("file of the cache is missing", where=str(path), mend="label again")
        if file_sha256(path) != sha256:
            raise DataError("file of the cache has changed", where=str(path), mend="label again")

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


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a cache: format, key, shards, files, statistics.

    Raises:
        DataError: it is not there, or is not an index.
    """
    path = folder / INDEX
    try:
        index = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise DataError(
            "the cache of the teacher's signals is not finished",
            where=str(folder),
            mend="run the label stage again; what it has is kept",
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path), mend="label again") from error
    names = {"format": str, "key": dict, "shards": dict, "files": dict, "statistics": dict}
    if not isinstance(index, dict) or not all(
        isinstance(index.get(name), kind) for name, kind in names.items()
    ):
        raise DataError("is not the index of a signal cache", where=str(path), mend="label again")
    return index
