"""Pictures with labels or captions, one file a layout; this module holds what they share.

A source lists pictures and opens none: the data stage does, through `data/images.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from limbeck.data.images import open_image
from limbeck.recipe.component import Component

if TYPE_CHECKING:
    from PIL.Image import Image

Task = Literal["classification", "retrieval"]
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Picture:
    """One picture as a source lists it; `open` decodes it or raises DataError."""

    id: str
    split: str
    open: Callable[[], Image]
    label: str | None = None
    captions: tuple[str, ...] = ()


class EncoderSource(Component):
    """Base of every source of pictures for the encoder study."""

    selector: ClassVar[str] = "source"
    tasks: ClassVar[tuple[Task, ...]] = ("classification",)
    """What its pictures can be used for; the first is the default."""

    image_size: int = Field(
        224, ge=8, le=1024, description="pixels of a side, as stored; models resize from there"
    )
    fit: Literal["squash", "crop"] = Field(
        "squash", description="the whole picture made square, or its middle"
    )
    limit: int | None = Field(None, gt=0, description="pictures of each split, drawn by the seed")
    seed: int = Field(0, ge=0, description="of the draw under limit")
    prompt: str = Field(
        "a photo of a {label}", pattern=r"\{label\}", description="the text of a class"
    )
    duplicates: Literal["fail", "drop"] = Field(
        "fail",
        description="pictures of train that test shows too, also re-encoded or resized: stop, or "
        "leave them out of train",
    )
    max_broken_share: float = Field(0.02, ge=0, le=1, description="above it the run stops")

    @property
    def chosen_task(self) -> Task:
        """What the pictures are used for."""
        return self.tasks[0]

    def pictures(self) -> Iterator[Picture]:
        """Every picture of train and test, in a stable order.

        Raises:
            DataError: the source itself cannot be read.
        """
        raise NotImplementedError

    def content_key(self) -> Any:
        """What identifies the content behind the fields."""
        raise NotImplementedError


def opener(path: Path) -> Callable[[], Image]:
    """Opens a picture file when it is asked to."""
    return lambda: open_image(path, where=str(path))
