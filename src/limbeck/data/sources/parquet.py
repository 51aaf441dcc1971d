"""Rows in local Parquet files, as Hugging Face data sets are stored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from limbeck.data.sources import Row
from limbeck.data.sources.files import FileSource
from limbeck.errors import DataError

ROWS_AT_ONCE = 16


class Parquet(FileSource):
    """Parquet files with named columns; pictures are `{bytes, path}`, bytes, or paths.

    Only the columns that are asked for are read.
    """

    suffix: ClassVar[str] = ".parquet"
    source: Literal["parquet"] = "parquet"

    def rows(self) -> Iterator[Row]:
        """Every row; its id is its own, or its split and number."""
        return self._read(pictures=True)

    def light_rows(self) -> Iterator[Row]:
        """Every row without the bytes of embedded pictures."""
        return self._read(pictures=False)

    def _read(self, *, pictures: bool) -> Iterator[Row]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        counts: dict[str | None, int] = {}
        for split, path in self.files():
            in_file = 0
            try:
                with pq.ParquetFile(path) as file:
                    self.check_columns(file.schema_arrow.names, where=str(path))
                    leaves = self._leaves(file, pictures)
                    for batch in file.iter_batches(batch_size=ROWS_AT_ONCE, columns=leaves):
                        for values in batch.to_pylist():
                            in_file += 1
                            counts[split] = counts.get(split, 0) + 1
                            row_id = f"{split or 'row'}-{counts[split]}"
                            where = f"{path}:{in_file}"
                            yield self.row(values, default_id=row_id, where=where, split=split)
            except DataError:
                raise
            except (OSError, ValueError, TypeError, OverflowError, pa.ArrowException) as error:
                raise DataError(
                    f"not a readable Parquet file after row {in_file} ({error})",
                    where=str(path),
                ) from error

    def _leaves(self, file: Any, pictures: bool) -> list[str]:
        columns = [file.schema.column(index) for index in range(len(file.schema))]
        return [
            column.path
            for column in columns
            if self.wants(column.path.split(".")[0])
            and (pictures or column.physical_type != "BYTE_ARRAY" or _is_text(column))
        ]


def _is_text(column: Any) -> bool:
    return column.logical_type.type in ("STRING", "JSON", "ENUM")
