"""Samples whose pictures are blanked: what a model answers without looking.

The pictures are replaced before any model sees them, so that every backend can be asked, in this
process or behind a server, and each picture keeps its size and its number of visual tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from limbeck.data.images import blank_png
from limbeck.records import ImageFile, Sample
from limbeck.store import write_atomic


def blanked(samples: Sequence[Sample], folder: Path) -> list[Sample]:
    """The same samples with grey pictures of the same sizes, which are written into `folder`."""
    grey: dict[tuple[int, int], ImageFile] = {}

    def blank(picture: ImageFile) -> ImageFile:
        size = (picture.width, picture.height)
        if size not in grey:
            data = blank_png(*size)
            name = f"{picture.width}x{picture.height}.png"
            write_atomic(folder / name, data)
            grey[size] = ImageFile(name, hashlib.sha256(data).hexdigest(), *size)
        return grey[size]

    return [replace(one, images=tuple(blank(picture) for picture in one.images)) for one in samples]
