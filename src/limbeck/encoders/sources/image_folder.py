"""A folder a split, in it a folder a class: train/<class>/*.png, test/<class>/*.png."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from limbeck.data.images import FILE_SUFFIXES
from limbeck.data.sources import folder_stamp
from limbeck.encoders.sources import EncoderSource, Picture, opener
from limbeck.errors import DataError


class ImageFolder(EncoderSource):
    """The layout of torchvision's ImageFolder, once for each split."""

    source: Literal["image_folder"] = "image_folder"
    path: str = Field(description="the folder that holds both")
    train: str = Field("train", description="folder of the training classes")
    test: str = Field("test", description="folder of the tested classes")

    def pictures(self) -> Iterator[Picture]:
        """By split, class and name."""
        for split, name in (("train", self.train), ("test", self.test)):
            base = Path(self.path) / name
            if not base.is_dir():
                raise DataError("folder not found", where=str(base))
            for path in sorted(base.rglob("*")):
                inner = path.relative_to(base).parts
                if len(inner) > 1 and path.suffix.lower() in FILE_SUFFIXES:
                    yield Picture("/".join(inner), split, opener(path), inner[0])

    def content_key(self) -> Any:
        """Names, sizes and times of all files."""
        return folder_stamp(Path(self.path))
