"""Labels on disk: `labels.parquet`, one row a label, in sample order."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limbeck.errors import DataError
from limbeck.records import Label
from limbeck.store import write_atomic

TABLE = "labels.parquet"
TOKENIZER = "tokenizer"
"""Sub-folder with the teacher's tokenizer, by which training proves that the student's is equal."""

TEACHER = "teacher.json"
"""What training shows of the teacher beside its tokenizer: `head_rows`, `visual_tokens_mean`,
`answer_prefix`, `end_ids`."""


def label_from(row: dict[str, Any]) -> Label:
    """A label from its plain values."""
    return Label(**{**row, "reasons": tuple(row["reasons"])})


def write_labels(folder: Path, labels: Sequence[Label]) -> None:
    """Write `labels.parquet`, one row a label, in sample order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    rows = [{**asdict(row), "reasons": list(row.reasons)} for row in labels]
    schema = pa.schema(
        [
            ("sample_id", pa.string()),
            ("text", pa.string()),
            ("valid", pa.bool_()),
            ("reasons", pa.list_(pa.string())),
            ("tokens", pa.int64()),
            ("finished", pa.bool_()),
            ("mean_log_probability", pa.float64()),
            ("teacher", pa.string()),
            ("agreement", pa.float64()),
            ("gold", pa.bool_()),
        ]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    write_atomic(folder / TABLE, buffer.getvalue())


def read_labels(folder: Path) -> list[Label]:
    """The labels of a finished stage, in sample order.

    Raises:
        DataError: the table cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / TABLE
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"labels cannot be read ({error})", where=str(path)) from error
    return [label_from(row) for row in rows]
