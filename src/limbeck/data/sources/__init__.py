"""Data sources, one a file; this module holds what they share.

A source yields rows as it finds them. What follows (opening images, splits, limits, quarantine) is
the data stage's work, by the options that every source has.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from limbeck.errors import DataError
from limbeck.recipe.component import Component

SPLIT_NAMES = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
    "testing": "test",
}
"""What data sets call their splits, and what the recipe calls them."""


@dataclass
class Row:
    """One row as a source found it, before images are opened and messages normalised.

    `where` locates it for error messages (`file.jsonl:17`). `messages` is anything that
    `limbeck.data.messages.normalise` accepts; `images` are file paths, raw bytes or data URIs, and
    so are `videos` (or folders), of which `frames` frames each become pictures.
    `split` is the source's own name for it. `error` is set where the source could not even read
    the row. `source` is whose options hold for it, where that is not the source that is prepared.
    """

    id: str
    where: str
    messages: Any = None
    images: list[Any] = field(default_factory=lambda: [])
    videos: list[Any] = field(default_factory=lambda: [])
    frames: int = 8
    references: Any = field(default_factory=lambda: [])
    split: str | None = None
    metadata: dict[str, Any] = field(default_factory=lambda: {})
    error: str | None = None
    source: Source | None = None


class Source(Component):
    """Base of every data source: yields rows; the data stage does the rest."""

    selector: ClassVar[str] = "source"

    prompt: str = Field(
        "Describe this image.",
        min_length=1,
        description="asked of each picture where rows have no messages; {column} takes a row's "
        "value, <image> says where its pictures stand (default: in front)",
    )
    limit: int | None = Field(None, gt=0, description="samples of each split, the first ones")
    split: str | None = Field(
        None,
        pattern=r"^[\w.-]{1,100}$",
        description="of all rows, whatever the source says, such as unlabelled",
    )
    splits: Literal["native", "hash"] = Field(
        "native", description="native: as the source says, else train; hash: drawn anew, stable"
    )
    split_names: dict[str, str] = Field(
        {}, description="the source's name -> ours, beyond val, valid, dev and the like"
    )
    validation_share: float | None = Field(
        None, ge=0, lt=1, description="only with splits: hash; default 0.1"
    )
    test_share: float | None = Field(
        None, ge=0, lt=1, description="only with splits: hash; default 0.1"
    )
    hash_by: str | None = Field(
        None,
        description="only with splits: hash; equal values stay in one split: image (default), id, "
        "or a name in the metadata",
    )
    max_broken_share: float = Field(
        0.02, ge=0, le=1, description="of rows in quarantine; above it the run stops"
    )
    max_aspect_ratio: float = Field(
        200, ge=1, description="of a picture's sides; Qwen-VL processors refuse more than 200"
    )
    duplicates: Literal["warn", "drop", "ignore"] = Field(
        "warn",
        description="pictures that occur twice, also re-encoded or resized: warn: of those that "
        "held-out splits share with others; drop: leave out the training side, and repeats within "
        "a split, after limit; ignore: do not look",
    )
    licence: str | None = Field(None, description="recorded with the data, carried to the report")

    @model_validator(mode="after")
    def _hash_options(self) -> Source:
        if self.splits == "native":
            for name in ("validation_share", "test_share", "hash_by"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name} needs splits: hash")
        elif self.split is not None:
            raise ValueError("split and splits: hash exclude one another")
        elif self.shares[0] + self.shares[1] >= 1:
            raise ValueError("validation_share and test_share leave nothing to train on")
        return self

    @property
    def shares(self) -> tuple[float, float]:
        """Share of validation and of test under `splits: hash`."""
        validation, test = self.validation_share, self.test_share
        return (0.1 if validation is None else validation, 0.1 if test is None else test)

    def split_of(self, name: str | None) -> str:
        """Our name of a native split; a row that names none is for training."""
        if self.split is not None:
            return self.split
        if name is None:
            return "train"
        return self.split_names.get(name) or SPLIT_NAMES.get(name.lower(), name)

    def rows(self) -> Iterator[Row]:
        """Every row, in a stable order.

        Raises:
            DataError: the source itself (file, folder, data set) cannot be read.
        """
        raise NotImplementedError

    def image_roots(self) -> list[Path]:
        """Folders that pictures may be in; relative paths start from the first."""
        return []

    def stated_licence(self) -> str | None:
        """The licence to record with the data."""
        return self.licence

    def content_key(self) -> Any:
        """What identifies the content behind the fields: hashes or sizes and times of files.

        Raises:
            DataError: the source cannot be reached.
        """
        raise NotImplementedError


def file_stamp(path: Path) -> list[int] | None:
    """Size in bytes and time of change of a file, None where there is none."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return [status.st_size, status.st_mtime_ns]


def media_stamp(path: Path) -> Any:
    """Of a picture, a video, or a folder of frames."""
    return folder_stamp(path) if os.path.isdir(path) else file_stamp(path)


def folder_stamp(folder: Path) -> str:
    """A hash over names, sizes and times of all files below a folder, hidden ones apart.

    Raises:
        DataError: it is not a folder.
    """
    from limbeck.store import fingerprint

    if not folder.is_dir():
        raise DataError("folder not found", where=str(folder))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = [path.relative_to(folder).as_posix() for path in files]
    return fingerprint(
        [
            [name, file_stamp(path)]
            for name, path in zip(names, files, strict=True)
            if not any(part.startswith(".") for part in name.split("/"))
        ]
    )
