"""Synthetic interface screens with their exact description: no download, a task that can be learnt.

The words are a closed list, and a screen is a combination of them: an application, a title, and an
element a row, each with a label and a state. Held-out screens are combinations that training never
shows: a hash of the combination decides which split it belongs to, so the splits cannot meet
whatever their sizes, and a larger training set only adds to a smaller one.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from pydantic import Field, model_validator

from limbeck.data.sources import Row, Source
from limbeck.data.sources.drawing import CELL, draw_screen
from limbeck.data.sources.screen2words import SCREEN_PROMPT

VERSION = 1
"""Goes up when the same options make other screens."""

APPS = ("mail", "chat", "news", "trip", "shop", "bank", "film", "book")
TITLES = ("settings", "profile", "login", "search", "home", "details")
LABELS = (
    *("wifi", "sound", "name", "email", "save", "dark", "music", "photo", "alarm", "theme"),
    *("cloud", "video", "phone", "share", "date", "price", "team", "help", "send", "city"),
)
STATES = {
    "toggle": ("on", "off"),
    "checkbox": ("checked", "unchecked"),
    "slider": ("low", "high"),
    "field": ("empty", "filled"),
    "button": ("enabled", "disabled"),
    "tab": ("active", "idle"),
    "icon": ("new", "plain"),
}
GROUNDS = (255, 249, 243)
UNLABELLED = "unlabelled"
SHARES = {"validation": range(0, 2), "test": range(2, 4), "train": range(4, 16)}
"""Which sixteenths of all combinations each split draws from."""


class Screen(NamedTuple):
    """One combination; `elements` are (state, kind, label) from top to bottom."""

    app: str
    title: str
    elements: tuple[tuple[str, str, str], ...]

    def items(self) -> list[str]:
        """The elements as the answer lists them, for example `on toggle wifi`."""
        return [" ".join(element) for element in self.elements]

    def text(self) -> str:
        """One sentence, then the elements."""
        items = ", ".join(self.items())
        return f"{self.title.capitalize()} screen of a {self.app} app. Elements: {items}."

    def split(self) -> str:
        """The split that this combination belongs to."""
        sixteenth = hashlib.sha256(self.text().encode()).digest()[0] % 16
        return next(name for name, share in SHARES.items() if sixteenth in share)


class Screens(Source):
    """Screens of small applications: toggles, checkboxes, sliders, fields, buttons, tabs, icons.

    Each row of 32 pixels below the title holds one element; the last row may be empty. The metadata
    has the application as `category`, and the `elements` as they stand in the reference.
    """

    source: Literal["screens"] = "screens"
    train: int = Field(3000, ge=1, description="screens")
    validation: int = Field(128, ge=0, description="screens")
    test: int = Field(256, ge=0, description="screens")
    unlabelled: int = Field(0, ge=0, description="further screens like train's, without references")
    seed: int = Field(0, ge=0)
    width: int = Field(96, ge=3 * CELL, le=1024, multiple_of=CELL, description="pixels")
    height: int = Field(128, ge=2 * CELL, le=512, multiple_of=CELL, description="pixels")
    prompt: str = Field(SCREEN_PROMPT, min_length=1)
    licence: str | None = "CC0-1.0"

    @model_validator(mode="after")
    def _enough_combinations(self) -> Screens:
        rows = min(self.height // CELL - 1, len(LABELS))
        pool = len(APPS) * len(TITLES) * (len(LABELS) * 14) ** rows // 4
        for split, share in SHARES.items():
            further = self.unlabelled if split == "train" else 0
            if getattr(self, split) + further > pool * len(share) // 16:
                raise ValueError(f"{split} asks for more screens than there are combinations")
        return self

    def rows(self) -> Iterator[Row]:
        """Train, validation, test and unlabelled screens, each drawn when it is asked for."""
        trained: set[Screen] = set()
        for split in ("train", "validation", "test", UNLABELLED):
            stream = random.Random(f"limbeck screens {VERSION} {self.seed} {split}")
            share = "train" if split == UNLABELLED else split
            seen: set[Screen] = set()
            while len(seen) < getattr(self, split):
                screen, ground = self._draw(stream)
                if screen.split() != share or screen in seen or screen in trained:
                    continue
                seen.add(screen)
                yield self._row(screen, split, len(seen), ground)
            if split == "train":
                trained = seen

    def content_key(self) -> Any:
        """The version of the generator; all else is in the fields."""
        return {"screens": VERSION}

    def _draw(self, stream: random.Random) -> tuple[Screen, int]:
        rows = min(self.height // CELL - 1, len(LABELS))
        count = stream.randint(max(1, rows - 1), rows)
        elements: list[tuple[str, str, str]] = []
        for label in stream.sample(LABELS, count):
            kind = stream.choice(tuple(STATES))
            elements.append((stream.choice(STATES[kind]), kind, label))
        screen = Screen(stream.choice(APPS), stream.choice(TITLES), tuple(elements))
        return screen, stream.choice(GROUNDS)

    def _row(self, screen: Screen, split: str, number: int, ground: int) -> Row:
        labelled = split != UNLABELLED
        share = split if labelled else "train"
        assert screen.split() == share, "a held-out screen would be trained on"
        picture = draw_screen(
            self.width,
            self.height,
            app=screen.app,
            title=screen.title,
            elements=list(screen.elements),
            ground=ground,
        )
        return Row(
            id=f"{split}-{number:06d}",
            where=f"screens:{split}:{number}",
            messages=[
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": self.prompt}],
                }
            ],
            images=[picture],
            references=[screen.text()] if labelled else [],
            split=split,
            metadata={
                "category": screen.app,
                "screen": screen.title,
                **({"elements": screen.items()} if labelled else {}),
            },
        )
