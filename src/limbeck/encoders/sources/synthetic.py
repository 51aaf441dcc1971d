"""Synthetic first-person scenes with a class and a caption each: no download, quickly learnt."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from limbeck.data.images import open_image
from limbeck.data.sources.scenes import (
    ACTIONS,
    COLOURS,
    COLUMNS,
    ENVIRONMENTS,
    THINGS,
    Thing,
    any_skin,
    draw_scene,
)
from limbeck.encoders.sources import EncoderSource, Picture, Task

if TYPE_CHECKING:
    from PIL.Image import Image

VERSION = 1
"""Goes up when the same options make other pictures."""


class Synthetic(EncoderSource):
    """Scenes of one colour of things in one place; no two have the same caption.

    A class is a place with a colour (`red in the kitchen`), a caption names everything.
    """

    tasks: ClassVar[tuple[Task, ...]] = ("classification", "retrieval")

    source: Literal["synthetic"] = "synthetic"
    task: Task = "classification"
    train: int = Field(400, ge=1, le=6000, description="pictures")
    test: int = Field(200, ge=1, le=2000, description="pictures")
    classes: int = Field(10, ge=2, le=30, description="of the thirty pairs of place and colour")
    image_size: int = Field(32, ge=8, le=1024)
    duplicates: Literal["fail", "drop"] = "drop"

    @property
    def chosen_task(self) -> Task:
        """As the recipe says."""
        return self.task

    def pictures(self) -> Iterator[Picture]:
        """Test pictures are of other combinations than training ones."""
        stream = random.Random(f"limbeck encoders {VERSION} {self.seed}")
        pairs = [(place, colour) for place in ENVIRONMENTS for colour in COLOURS]
        chosen = stream.sample(pairs, self.classes)
        seen: set[Any] = set()
        for split, count in (("train", self.train), ("test", self.test)):
            number = 0
            while number < count:
                place, colour = chosen[number % len(chosen)]
                columns = stream.sample(range(COLUMNS), stream.randint(2, 3))
                things = tuple(
                    Thing(stream.choice(list(THINGS)), colour, column) for column in sorted(columns)
                )
                action = stream.choice(list(ACTIONS))
                if (place, things, action) in seen:
                    continue
                seen.add((place, things, action))
                number += 1
                shift = (stream.randint(-2, 2), stream.randint(-2, 2))
                listed = ", ".join(f"{thing.kind} {thing.column + 1}" for thing in things)
                yield Picture(
                    f"{split}-{number:05d}",
                    split,
                    _opener(place, things, action, any_skin(stream), shift),
                    label=f"{colour} in the {place}",
                    captions=(f"{action} {colour} {listed} in the {place}",),
                )

    def content_key(self) -> Any:
        """The version of the generator; all else is in the fields."""
        return {"synthetic": VERSION}


def _opener(
    place: str, things: tuple[Thing, ...], action: str, skin: Any, shift: tuple[int, int]
) -> Callable[[], Image]:
    def read() -> Image:
        drawn = draw_scene(
            environment=place,
            things=things,
            action=action,
            skin=skin,
            shift=shift,
            cell_pixels=32,
        )
        return open_image(drawn, where="synthetic")

    return read
