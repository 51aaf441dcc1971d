"""Data sets of the Hugging Face hub, or a local folder of the same layout, through `datasets`.

A data set from the hub is first brought whole into the local cache (by huggingface_hub, which
resumes) and then read as a folder, row by row, without a second copy; pictures stay as their bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from limbeck.data.sources import Row, folder_stamp
from limbeck.data.sources.columns import ColumnSource
from limbeck.errors import DataError

LAYOUTS = ("parquet", "arrow", "json", "csv", "imagefolder")
"""Layouts that hold data only; none runs code or unpickles."""


class Hub(ColumnSource):
    """A data set by its hub id (`owner/name`) or a folder; all splits that it has."""

    source: Literal["hub"] = "hub"
    name: str = Field(description="hub id, or a folder of the same layout")
    config: str | None = Field(None, description="the data set's configuration, if it has several")
    revision: str | None = Field(None, description="branch, tag or commit on the hub")
    files: tuple[str, ...] | None = Field(
        None, description="patterns of the files to download; default: all"
    )

    def rows(self) -> Iterator[Row]:
        """Every row of every split; its id is its own, or split and number."""
        folder = self._folder()
        for split, dataset, expected in self._open(folder):
            number = 0
            try:
                for values in dataset:
                    number += 1
                    row_id, where = f"{split}-{number}", f"{self.name}:{split}:{number}"
                    yield self.row(values, default_id=row_id, where=where, split=split)
            except DataError:
                raise
            except Exception as error:  # readers of six layouts, each with errors of its own
                raise DataError(
                    f"split {split!r} cannot be read after row {number} ({error})",
                    where=str(folder),
                ) from error
            if expected is not None and number != expected:
                raise DataError(
                    f"split {split!r} has {number} rows, its card says {expected}",
                    where=str(folder),
                    mend="a download is incomplete; " + self._how_to_get(),
                )

    def own_roots(self) -> list[Path]:
        """The folder; for a download the data set's cache, into which its files are links."""
        folder = self._folder().resolve()
        return [folder] if self._is_local() else [folder, folder.parent.parent]

    def content_key(self) -> Any:
        """The commit, or for a local folder a hash over names, sizes and times."""
        if self._is_local():
            return {"folder": folder_stamp(Path(self.name))}
        return {"commit": self._commit()}

    def _is_local(self) -> bool:
        return Path(self.name).is_dir()

    def _open(self, folder: Path) -> Iterator[tuple[str, Any, int | None]]:
        """Each split as lazily read rows with pictures as bytes, and its size by the card."""
        import datasets

        try:
            builder = datasets.load_dataset_builder(str(folder), self.config)
            if builder.dataset_name and builder.name not in LAYOUTS:
                raise DataError(f"layout {builder.name!r} is not supported", where=str(folder))
            splits = builder.as_streaming_dataset()
        except DataError:
            raise
        except Exception as error:
            raise DataError(f"not a data set ({error})", where=str(folder)) from error
        for split, dataset in splits.items():
            if dataset.features is not None:  # JSON and CSV show their columns row by row
                self.check_columns(dataset.features, where=f"{self.name}:{split}")
                dataset = dataset.select_columns([n for n in dataset.features if self.wants(n)])
                dataset = dataset.decode(False)
            info = (builder.info.splits or {}).get(split)
            yield str(split), dataset, info.num_examples if info else None

    def _folder(self) -> Path:
        if self._is_local():
            return Path(self.name)
        import huggingface_hub as hub

        commit = self._commit()
        patterns = list(self.files) if self.files else None
        try:
            found = hub.snapshot_download(
                self.name, repo_type="dataset", revision=commit, allow_patterns=patterns
            )
        except Exception as error:  # network, rights, disk: all end in the same mend
            raise self._unreachable(error) from error
        return Path(found)

    def _commit(self) -> str:
        """The commit that the revision means: pinned, else as cached, else as the hub says."""
        import huggingface_hub as hub
        from huggingface_hub import constants

        if self.revision and re.fullmatch(r"[0-9a-f]{40}", self.revision):
            return self.revision
        try:
            cached = Path(constants.HF_HUB_CACHE) / "--".join(["datasets", *self.name.split("/")])
            reference = cached / "refs" / (self.revision or "main")
            if reference.is_file():
                return reference.read_text().strip()
            snapshots = list((cached / "snapshots").glob("*"))
            if len(snapshots) == 1 and self.revision is None:
                return snapshots[0].name
            commit = hub.HfApi().dataset_info(self.name, revision=self.revision).sha
        except Exception as error:
            raise self._unreachable(error) from error
        assert commit is not None
        return commit

    def _unreachable(self, error: Exception) -> DataError:
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        return DataError(
            f"data set is not in the cache and cannot be fetched ({reason})",
            where=self.name,
            mend=self._how_to_get(),
        )

    def _how_to_get(self) -> str:
        revision = f" --revision {self.revision}" if self.revision else ""
        return (
            f"with a network: hf download {self.name} --repo-type dataset{revision}; or give "
            "data.name the folder of a copy"
        )
