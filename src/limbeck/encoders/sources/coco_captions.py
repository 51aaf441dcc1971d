"""COCO captions in the published layout: annotations/captions_<split>.json and image folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from limbeck.data.sources import file_stamp, folder_stamp
from limbeck.encoders.sources import EncoderSource, Picture, Task, opener
from limbeck.errors import DataError


class CocoCaptions(EncoderSource):
    """Five captions a picture; what is scored is retrieval over the whole test split."""

    tasks: ClassVar[tuple[Task, ...]] = ("retrieval",)

    source: Literal["coco_captions"] = "coco_captions"
    path: str = Field(description="holds annotations/ and the folders of pictures")
    train: str = Field("train2017", description="captions_<this>.json and the folder <this>")
    test: str = Field("val2017", description="the same")

    def pictures(self) -> Iterator[Picture]:
        """Train, then test, by image id."""
        for split, name in (("train", self.train), ("test", self.test)):
            yield from self._split(split, name)

    def content_key(self) -> Any:
        """The annotation files, and names, sizes and times of the pictures."""
        base = Path(self.path)
        return [
            [file_stamp(self._table(name)), folder_stamp(base / name)]
            for name in (self.train, self.test)
        ]

    def _table(self, name: str) -> Path:
        return Path(self.path) / "annotations" / f"captions_{name}.json"

    def _split(self, split: str, name: str) -> Iterator[Picture]:
        table = self._table(name)
        try:
            content = json.loads(table.read_text(encoding="utf-8"))
            captions: dict[int, list[str]] = {}
            for row in sorted(content["annotations"], key=lambda row: row["id"]):
                captions.setdefault(row["image_id"], []).append(" ".join(row["caption"].split()))
            files = {row["id"]: str(row["file_name"]) for row in content["images"]}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"is no COCO caption file ({type(error).__name__}: {error})", where=str(table)
            ) from error
        for number in sorted(files):
            file = files[number]
            if Path(file).name != file:
                raise DataError(f"image {number}: not a plain file name", where=str(table))
            said = tuple(text for text in captions.get(number, ()) if text)
            if said:
                path = Path(self.path) / name / file
                yield Picture(str(number), split, opener(path), captions=said)
