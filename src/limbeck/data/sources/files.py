"""Local files of a data set, by split: shared by `jsonl` and `parquet`."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from limbeck.data.locate import locate_image
from limbeck.data.messages import normalise
from limbeck.data.sources import SPLIT_NAMES, Row, media_stamp
from limbeck.data.sources.columns import ColumnSource
from limbeck.errors import DataError
from limbeck.store import file_sha256, fingerprint


class FileSource(ColumnSource):
    """Rows in files, named by `path` or by split in `paths`."""

    suffix: ClassVar[str]

    path: str | None = Field(
        None,
        description="file, pattern (data/*) or folder; a file called train-*, val.*, test/... is "
        "that split",
    )
    paths: dict[str, str] | None = Field(None, description="split -> file or pattern")

    @model_validator(mode="after")
    def _one_of_both(self) -> FileSource:
        if (self.path is None) == (not self.paths):
            raise ValueError("needs exactly one of path and paths")
        return self

    def files(self) -> list[tuple[str | None, Path]]:
        """Every file with its split, where one is known.

        Raises:
            DataError: a name that matches no file.
        """
        if self.paths:
            return [(s, p) for s, pattern in self.paths.items() for p in self._matches(pattern)]
        assert self.path is not None
        found = self._matches(self.path)
        if len(found) == 1 and found[0] == Path(self.path):
            return [(None, found[0])]  # one file that is named outright holds what it says itself
        base = Path(glob.escape(self.path) if Path(self.path).is_dir() else self.path)
        return [(split_in_name(path, base), path) for path in found]

    def own_roots(self) -> list[Path]:
        """The folders that the files are in."""
        roots = {path.resolve().parent: None for _, path in self.files()}
        return list(roots)

    def content_key(self) -> Any:
        """SHA-256 of the files, with names, sizes and times of the pictures they point to."""
        files = [[split, path.name, file_sha256(path)] for split, path in self.files()]
        return {"files": files, "images": self._image_stamps()}

    def light_rows(self) -> Iterator[Row]:
        """The rows with at least every picture's path."""
        return self.rows()

    def _image_stamps(self) -> str:
        roots = self.image_roots()
        stamps: list[Any] = []
        for row in self.light_rows():
            try:
                if row.error is None:
                    _, images, _ = normalise(
                        *(row.messages, row.images, []),
                        where=row.where,
                        videos=row.videos,
                        frames_of=lambda video: [video],
                    )
                    found = [locate_image(image, roots, where=row.where) for image in images]
                    stamps += [media_stamp(path) for path in found if isinstance(path, Path)]
            except DataError:
                continue  # the data stage quarantines it, whatever its pictures are
        return fingerprint(stamps)

    def _matches(self, pattern: str) -> list[Path]:
        path = Path(pattern)
        if path.is_dir():
            found = sorted(path.rglob(f"*{self.suffix}"))
        elif path.exists():
            found = [path]
        else:
            found = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
        found = [path for path in found if path.is_file()]
        if not found:
            raise DataError("no such file", where=pattern, mend="see data.path in the recipe")
        return found


def split_in_name(path: Path, base: Path) -> str | None:
    """The split that a file's name (`train-00000-of-00006.parquet`) or folder says, if any."""
    word = re.split(r"[-_.]", path.name, maxsplit=1)[0]
    for name in (word, path.parent.name if path.parent != base else ""):
        if name.lower() in SPLIT_NAMES:
            return name
    return None
