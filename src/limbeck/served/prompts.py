"""A sample as the JSON of a chat request: its turns, and its pictures as data or by address."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from limbeck.data.images import blank_image, fit_pixels, open_image
from limbeck.errors import DataError
from limbeck.records import Message, Sample


@dataclass(frozen=True)
class Pictures:
    """How pictures travel.

    Attributes:
        data: the folder that holds them.
        transport: "data" sends their pixels, "url" an address from the sample's metadata, which
            the server fetches.
        field: of the metadata: an address, or a list with one for each picture.
        encoding: of pixels; png keeps them as they are.
        jpeg_quality: 1 to 100.
        min_pixels, max_pixels: to which pixels are scaled; None leaves them.
    """

    data: Path
    transport: Literal["data", "url"] = "data"
    field: str = "image_url"
    encoding: Literal["png", "jpeg"] = "png"
    jpeg_quality: int = 90
    min_pixels: int | None = None
    max_pixels: int | None = None

    def urls(self, sample: Sample, *, blank: bool = False) -> list[str]:
        """An address for every picture of a sample; grey pixels of the same size where `blank`.

        Raises:
            DataError: a picture cannot be opened, or the metadata has no address for it.
        """
        if self.transport == "url" and not blank:
            return self._addresses(sample)
        return [self._pixels(sample, number, blank) for number in range(len(sample.images))]

    def _addresses(self, sample: Sample) -> list[str]:
        found = sample.metadata.get(self.field)
        urls = [found] if isinstance(found, str) else found
        if not isinstance(urls, list) or len(urls) != len(sample.images):
            raise DataError(
                f"metadata field {self.field!r} does not hold an address for each picture",
                where=sample.id,
                mend="add them to the data's metadata, or set teacher.image_transport to data",
            )
        return [str(url) for url in urls]

    def _pixels(self, sample: Sample, number: int, blank: bool) -> str:
        image = open_image(self.data / sample.images[number].path, where=sample.id)
        image = fit_pixels(image, self.min_pixels, self.max_pixels)
        if blank:
            image = blank_image(image)
        buffer = io.BytesIO()
        if self.encoding == "png":
            image.save(buffer, "PNG")
        else:
            image.save(buffer, "JPEG", quality=self.jpeg_quality)
        text = base64.b64encode(buffer.getvalue()).decode()
        return f"data:image/{self.encoding};base64,{text}"


def chat_messages(messages: Sequence[Message], urls: Sequence[str]) -> list[dict[str, Any]]:
    """The turns as the API has them; a turn that is one text is sent as a plain string."""
    left = iter(urls)
    return [{"role": turn["role"], "content": _content(turn, left)} for turn in messages]


def _content(turn: Message, urls: Iterator[str]) -> str | list[dict[str, Any]]:
    parts = turn["content"]
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return [
        {"type": "text", "text": part["text"]}
        if part["type"] == "text"
        else {"type": "image_url", "image_url": {"url": next(urls)}}
        for part in parts
    ]
