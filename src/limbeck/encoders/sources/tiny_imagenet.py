"""Tiny ImageNet in its published layout: 200 classes of 500 training pictures, 64x64.

    wnids.txt  words.txt  train/<wnid>/images/*.JPEG  val/images/*.JPEG  val/val_annotations.txt

The labels of the published test pictures were never released; `val` is what is tested on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from limbeck.data.images import FILE_SUFFIXES
from limbeck.data.sources import folder_stamp
from limbeck.encoders.sources import EncoderSource, Picture, opener
from limbeck.errors import DataError


class TinyImagenet(EncoderSource):
    """The folder `tiny-imagenet-200`; a class is called by the first of its words."""

    source: Literal["tiny_imagenet"] = "tiny_imagenet"
    path: str = Field(description="the unpacked folder")
    image_size: int = Field(64, ge=8, le=1024)

    def pictures(self) -> Iterator[Picture]:
        """Train by class, then val by its annotations."""
        base = Path(self.path)
        names = self._names(base)
        for wnid, name in names.items():
            for path in sorted((base / "train" / wnid / "images").glob("*")):
                if path.suffix.lower() in FILE_SUFFIXES:
                    yield Picture(path.name, "train", opener(path), name)
        table = base / "val" / "val_annotations.txt"
        for number, line in enumerate(_lines(table), 1):
            file, _, rest = line.partition("\t")
            wnid = rest.split("\t")[0]
            if wnid not in names:
                raise DataError(f"unknown class {wnid[:40]!r}", where=f"{table}:{number}")
            if Path(file).name != file:
                raise DataError("not a plain file name", where=f"{table}:{number}")
            path = base / "val" / "images" / file
            yield Picture(file, "test", opener(path), names[wnid])

    def content_key(self) -> Any:
        """Names, sizes and times of all files."""
        return folder_stamp(Path(self.path))

    def _names(self, base: Path) -> dict[str, str]:
        """Class id -> its name; two classes of one name are told apart by their ids."""
        wnids = [path.name for path in sorted((base / "train").glob("*")) if path.is_dir()]
        if not wnids:
            raise DataError(
                "has no train/<wnid> folders", where=self.path, mend="give tiny-imagenet-200"
            )
        words = dict(line.split("\t", 1) for line in _lines(base / "words.txt") if "\t" in line)
        first = {wnid: words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids}
        said = list(first.values())
        return {w: n if said.count(n) == 1 else f"{n} ({w})" for w, n in first.items()}


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path)) from error
    return [line for line in text.splitlines() if line.strip()]
