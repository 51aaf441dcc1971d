"""One file of the signal cache: a safetensors file whose checksum covers every byte of it.

    ids         [M, K] int32      columns of the shared vocabulary, most probable first
    logp        [M, K] float32    log-probabilities at T = 1
    log_sums    [M, T] float32    log sum_v exp(logp_v / T)
    answer_ids  [M] int32         the token that each row predicts
    offsets     [S + 1] int64     sample s has rows offsets[s] to offsets[s + 1]

M rows are the answer tokens of S samples. The metadata holds the format, the global key with k and
temperatures, ids and keys of the samples, and the SHA-256 of the file with that SHA-256 as zeros.
Numpy is enough to read it; nothing is loaded before it is asked for.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import DataError
from limbeck.store import canonical_json

FORMAT = "limbeck-top-k-1"
_UNSIGNED = "0" * 64
_TYPES = {"I32": "<i4", "I64": "<i8", "F32": "<f4"}


class DamagedShardError(DataError):
    """A shard is torn or was changed after it was written."""


@dataclass(frozen=True)
class Shard:
    """An open shard; its arrays are views into the memory-mapped file."""

    path: Path
    sha256: str
    key: dict[str, Any]
    sample_ids: list[str]
    sample_keys: list[dict[str, Any]]
    ids_MK: NDArray[np.int32]
    logp_MK: NDArray[np.float32]
    log_sums_MT: NDArray[np.float32]
    answer_ids_M: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def rows(self, position: int) -> slice:
        """Which rows of the arrays belong to the sample at this position."""
        return slice(int(self.offsets[position]), int(self.offsets[position + 1]))


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"signals-{number:05d}.safetensors"


def shard_bytes(
    key: dict[str, Any],
    sample_ids: list[str],
    sample_keys: list[dict[str, Any]],
    arrays: dict[str, NDArray[Any]],
) -> bytes:
    """The content of a shard file."""
    metadata = {
        "format": FORMAT,
        "key": canonical_json(key),
        "samples": canonical_json(sample_ids),
        "sample_keys": canonical_json(sample_keys),
        "sha256": _UNSIGNED,
    }
    unsigned = _safetensors(arrays, metadata)
    sha256 = hashlib.sha256(unsigned).hexdigest()
    return unsigned.replace(_sha256_entry(_UNSIGNED), _sha256_entry(sha256), 1)


def open_shard(path: Path) -> Shard:
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
    if metadata["format"] != FORMAT:
        raise DataError(
            f"format {metadata['format']!r} is not {FORMAT!r}",
            where=str(path),
            mend="label again with this version",
        )

    def array(name: str) -> NDArray[Any]:
        first, last = header[name]["data_offsets"]
        flat = content[start + first : start + last].view(_TYPES[header[name]["dtype"]])
        return flat.reshape(header[name]["shape"])

    return Shard(
        path,
        sha256,
        json.loads(metadata["key"]),
        json.loads(metadata["samples"]),
        json.loads(metadata["sample_keys"]),
        array("ids"),
        array("logp"),
        array("log_sums"),
        array("answer_ids"),
        array("offsets"),
    )


def _safetensors(arrays: dict[str, NDArray[Any]], metadata: dict[str, str]) -> bytes:
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
