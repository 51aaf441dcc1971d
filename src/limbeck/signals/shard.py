"""One file of a signal cache: a safetensors file whose checksum covers every byte of it.

    samples   uint8           ids, keys and answer lengths of the S samples: JSON, deflated
    answers   [M, 3] uint8    the token that each row predicts, little-endian
    ...                       what the coding keeps of each of the M rows; see `*_coding.py`

M rows are the answer tokens of the samples one after the other. The metadata holds the format, the
global key, the coding's parameters, and the SHA-256 of the file with that SHA-256 as zeros. Numpy
is enough to read it; rows are not touched before they are asked for.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import DataError
from limbeck.store import canonical_json

TOKEN_BYTES = 3
"""Of an answer token."""

MAX_VOCABULARY = 1 << (8 * TOKEN_BYTES)

SAMPLES, ANSWERS = "samples", "answers"
_UNSIGNED = "0" * 64
_TYPES = {"U8": "u1", "I8": "i1", "F16": "<f2", "F32": "<f4"}


class DamagedShardError(DataError):
    """A shard is torn or was changed after it was written."""


@dataclass(frozen=True)
class ShardSample:
    """A sample of a shard: its id, its key, and the columns of its answer's tokens."""

    id: str
    key: dict[str, Any]
    answer_ids: Sequence[int]


@dataclass(frozen=True)
class Shard:
    """An open shard; its arrays are views into the memory-mapped file."""

    path: Path
    sha256: str
    key: dict[str, Any]
    parameters: dict[str, Any]
    sample_ids: list[str]
    sample_keys: list[dict[str, Any]]
    offsets: NDArray[np.int64]
    arrays: dict[str, NDArray[Any]]

    @property
    def tokens(self) -> int:
        """Rows of the shard."""
        return int(self.offsets[-1])

    def rows(self, position: int) -> slice:
        """Which rows of the arrays belong to the sample at this position."""
        return slice(int(self.offsets[position]), int(self.offsets[position + 1]))

    def answer_ids(self, rows: slice) -> NDArray[np.int32]:
        """The tokens that these rows predict."""
        return self.arrays[ANSWERS][rows].astype(np.int32) @ np.array([1, 1 << 8, 1 << 16])


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"signals-{number:05d}.safetensors"


def shard_bytes(
    format_name: str,
    key: dict[str, Any],
    samples: Sequence[ShardSample],
    arrays: Mapping[str, NDArray[Any]],
    parameters: dict[str, Any],
) -> bytes:
    """The content of a shard file; `arrays` hold one row for every answer token."""
    about = {
        "ids": [sample.id for sample in samples],
        "keys": [sample.key for sample in samples],
        "lengths": [len(sample.answer_ids) for sample in samples],
    }
    deflated = zlib.compress(canonical_json(about).encode(), 9)
    answers = np.array([i for sample in samples for i in sample.answer_ids], "<u4")
    every = {
        **arrays,
        SAMPLES: np.frombuffer(deflated, np.uint8),
        ANSWERS: answers[:, None].view(np.uint8)[:, :TOKEN_BYTES],
    }
    metadata = {
        "format": format_name,
        "key": canonical_json(key),
        "parameters": canonical_json(parameters),
        "sha256": _UNSIGNED,
    }
    unsigned = safetensors_bytes(every, metadata)
    sha256 = hashlib.sha256(unsigned).hexdigest()
    return unsigned.replace(_sha256_entry(_UNSIGNED), _sha256_entry(sha256), 1)


def open_shard(path: Path, format_name: str) -> Shard:
    """Map a shard into memory after its checksum was verified.

    Raises:
        DamagedShardError: the file is truncated or was changed.
        DataError: it cannot be read, or has another format.
    """
    try:
        if path.stat().st_size < 8:
            raise _damaged(path, "shorter than its header")
        content = np.memmap(path, dtype=np.uint8, mode="r")
    except OSError as error:
        raise DataError(
            f"cannot read ({error.strerror})", where=str(path), mend="label again"
        ) from error
    start = 8 + int.from_bytes(content[:8].tobytes(), "little")
    if start > content.size:
        raise _damaged(path, "its header is cut")
    head = content[:start].tobytes()
    try:
        header = json.loads(head[8:])
        metadata = header.pop("__metadata__")
        sha256 = str(metadata["sha256"])
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise _damaged(path, "its header cannot be read") from error
    digest = hashlib.sha256(head.replace(_sha256_entry(sha256), _sha256_entry(_UNSIGNED), 1))
    digest.update(memoryview(content)[start:])
    if digest.hexdigest() != sha256:
        raise _damaged(path, "its checksum does not match")
    if metadata["format"] != format_name:
        raise DataError(
            f"format {metadata['format']!r} is not {format_name!r}",
            where=str(path),
            mend="label again with this version",
        )
    plain = content.view(np.ndarray)  # slices of a memmap are slow objects

    def array(name: str) -> NDArray[Any]:
        first, last = header[name]["data_offsets"]
        flat = plain[start + first : start + last].view(_TYPES[header[name]["dtype"]])
        return flat.reshape(header[name]["shape"])

    arrays = {name: array(name) for name in header}
    about = json.loads(zlib.decompress(arrays.pop(SAMPLES).tobytes()))
    return Shard(
        path,
        sha256,
        json.loads(metadata["key"]),
        json.loads(metadata["parameters"]),
        about["ids"],
        about["keys"],
        np.cumsum([0, *about["lengths"]], dtype=np.int64),
        arrays,
    )


def held_samples(folder: Path, format_name: str) -> set[str]:
    """Ids of the samples in a folder's whole shards; those of torn ones are not held.

    Raises:
        DataError: a shard has another format.
    """
    held: set[str] = set()
    for path in sorted(folder.glob("signals-*.safetensors")):
        try:
            held.update(open_shard(path, format_name).sample_ids)
        except DamagedShardError:
            continue
    return held


def safetensors_bytes(arrays: Mapping[str, NDArray[Any]], metadata: dict[str, str]) -> bytes:
    """A safetensors file; the library's own writer orders metadata at random, so bytes differ."""
    header: dict[str, Any] = {"__metadata__": metadata}
    parts: list[bytes] = []
    end = 0
    # The widest type first, so that every array starts at a multiple of its item size.
    for name, array in sorted(arrays.items(), key=lambda item: (-item[1].itemsize, item[0])):
        dtype = next(word for word, code in _TYPES.items() if array.dtype == np.dtype(code))
        parts.append(np.ascontiguousarray(array, _TYPES[dtype]).tobytes())
        start, end = end, end + len(parts[-1])
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [start, end]}
    text = canonical_json(header).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *parts])


def _sha256_entry(sha256: str) -> bytes:
    return f'"sha256":"{sha256}"'.encode()


def _damaged(path: Path, why: str) -> DamagedShardError:
    return DamagedShardError(
        f"shard of the teacher's signals is damaged: {why}",
        where=str(path),
        mend="remove it and label again; samples in other shards are kept",
    )
