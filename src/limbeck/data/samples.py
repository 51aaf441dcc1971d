"""Samples on disk: one Parquet file, read back exactly as written, in the same order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import DataError
from limbeck.records import ImageFile, Sample
from limbeck.store import write_atomic

SAMPLES = "samples.parquet"


def write_samples(folder: Path, samples: Sequence[Sample]) -> Path:
    """Write `samples.parquet`; messages and metadata are JSON text in it.

    Raises:
        DataError: the file cannot be written.
    """
    import io

    import pyarrow as pa
    import pyarrow.parquet as pq

    image = pa.struct(
        [
            ("path", pa.string()),
            ("sha256", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
        ]
    )
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("split", pa.string()),
            ("messages", pa.string()),
            ("images", pa.list_(image)),
            ("references", pa.list_(pa.string())),
            ("metadata", pa.string()),
        ]
    )
    rows = [
        {
            "id": sample.id,
            "split": sample.split,
            "messages": _json(sample.messages),
            "images": [vars(file) for file in sample.images],
            "references": list(sample.references),
            "metadata": _json(sample.metadata),
        }
        for sample in samples
    ]
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer, row_group_size=1000)
    path = folder / SAMPLES
    write_atomic(path, buffer.getvalue())
    return path


def read_samples(
    folder: Path, split: str | Sequence[str] | None = None, limit: int | None = None
) -> list[Sample]:
    """The samples of a split, of several, or all, in the order of the file, at most `limit`.

    Raises:
        DataError: the file cannot be read, or a named split has no samples.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / SAMPLES
    wanted = None if split is None else {split} if isinstance(split, str) else set(split)
    try:
        rows = pq.ParquetFile(path).read().to_pylist()
        samples = [_from_row(row) for row in rows if wanted is None or row["split"] in wanted]
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(
            f"samples cannot be read ({error})",
            where=str(path),
            mend=f"remove {folder} and run again",
        ) from error
    if missing := sorted((wanted or set()) - {sample.split for sample in samples}):
        present = sorted({row["split"] for row in rows})
        raise DataError(
            f"no samples in split {', '.join(map(repr, missing))}",
            where=str(path),
            mend=f"splits with samples: {', '.join(present) or 'none'}; data.splits: hash makes "
            "train, validation and test",
        )
    return samples[:limit]


def sample_from(fields: Mapping[str, Any]) -> Sample:
    """A sample again from `dataclasses.asdict` of it, which may have gone through JSON."""
    return Sample(
        id=fields["id"],
        split=fields["split"],
        messages=tuple(fields["messages"]),
        images=tuple(ImageFile(**file) for file in fields["images"]),
        references=tuple(fields["references"]),
        metadata=fields["metadata"],
    )


def _from_row(row: Mapping[str, Any]) -> Sample:
    parsed = {name: json.loads(row[name]) for name in ("messages", "metadata")}
    return sample_from({**row, **parsed})


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
