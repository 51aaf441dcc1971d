"""CIFAR-10 and CIFAR-100 in their binary version; the pickled Python version is never loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from limbeck.data.sources import folder_stamp
from limbeck.encoders.sources import EncoderSource, Picture
from limbeck.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

SIDE = 32
PIXEL_BYTES = 3 * SIDE * SIDE


class Cifar(EncoderSource):
    """A row is one label byte (two for CIFAR-100: coarse, fine) and 3,072 bytes, plane by plane.

    Read are `data_batch_*.bin`, `train.bin`, `test_batch.bin` and `test.bin`, and the class names
    in `batches.meta.txt` or `fine_label_names.txt`.
    """

    source: Literal["cifar"] = "cifar"
    path: str = Field(description="the unpacked folder of the binary version")
    image_size: int = Field(SIDE, ge=8, le=1024)

    def pictures(self) -> Iterator[Picture]:
        """Train batches in their order, then test."""
        base = Path(self.path)
        names, label_bytes = self._names(base)
        found = {
            "train": sorted([*base.glob("data_batch_*.bin"), *base.glob("train.bin")]),
            "test": sorted([*base.glob("test_batch.bin"), *base.glob("test.bin")]),
        }
        for split, files in found.items():
            if not files:
                raise DataError(
                    f"has no {split} batches of the binary version (*.bin)",
                    where=self.path,
                    mend="the Python version is pickled and is not loaded; get the binary version",
                )
            for path in files:
                yield from _rows(path, split, names, label_bytes)

    def content_key(self) -> Any:
        """Names, sizes and times of all files."""
        return folder_stamp(Path(self.path))

    def _names(self, base: Path) -> tuple[list[str], int]:
        for file, label_bytes in (("batches.meta.txt", 1), ("fine_label_names.txt", 2)):
            if (base / file).is_file():
                lines = (base / file).read_text(encoding="utf-8").split("\n")
                return [line.strip() for line in lines if line.strip()], label_bytes
        raise DataError(
            "has neither batches.meta.txt nor fine_label_names.txt",
            where=self.path,
            mend="give the unpacked folder of the binary version",
        )


def _rows(path: Path, split: str, names: list[str], label_bytes: int) -> Iterator[Picture]:
    content = np.frombuffer(path.read_bytes(), np.uint8)
    if not len(content) or len(content) % (label_bytes + PIXEL_BYTES):
        raise DataError(
            f"its {len(content)} bytes are no whole rows of {label_bytes + PIXEL_BYTES}",
            where=str(path),
            mend="download it again",
        )
    for number, row in enumerate(content.reshape(-1, label_bytes + PIXEL_BYTES)):
        label = int(row[label_bytes - 1])
        if label >= len(names):
            raise DataError(f"row {number}: there is no class {label}", where=str(path))
        yield Picture(f"{path.stem}-{number}", split, _opener(row[label_bytes:]), names[label])


def _opener(planes: np.ndarray) -> Callable[[], Image]:
    def read() -> Image:
        from PIL import Image

        return Image.fromarray(planes.reshape(3, SIDE, SIDE).transpose(1, 2, 0).copy())

    return read
