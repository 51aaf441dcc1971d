"""Synthetic first-person scenes with questions about them: no download, a task that can be learnt.

A scene is a place, one to four things on a table, and two frames in which one's own hands do
something, first one action and then another. Seven questions are asked about each, one of every
type; the temporal one shows both frames, the others the last. Answers are single words or two from
closed lists. Every answer of a type is right equally often and independently of what the question
says, so that guessing without the pictures is right as often as one in so many answers.

Held-out scenes are combinations that training never shows: a hash of the place and the things in it
decides which split a scene belongs to, so that no frame is in two splits whatever their sizes, and
a larger training set only adds to a smaller one.

More training scenes are described, frame by frame, and not asked about: an answer of one word
teaches a small model next to nothing about what is where, and a description names all of it.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from typing import Any, Generic, Literal, NamedTuple, TypeVar

from pydantic import Field, model_validator

from limbeck.data.sources import Row, Source
from limbeck.data.sources.scenes import (
    ACTIONS,
    COLOURS,
    COLUMNS,
    ENVIRONMENTS,
    THINGS,
    UNITS,
    Thing,
    any_skin,
    draw_scene,
)

VERSION = 1
"""Goes up when the same options make other scenes."""

PLACES = ("far left", "left", "right", "far right")
NUMBERS = ("one", "two", "three", "four")
ORDERS = ("first", "last")
ANSWERS: dict[str, tuple[str, ...]] = {
    "object recognition": tuple(THINGS),
    "spatial reasoning": PLACES,
    "action understanding": tuple(ACTIONS),
    "temporal": tuple(ACTIONS),
    "counting": NUMBERS,
    "attributes": tuple(COLOURS),
    "environment": tuple(ENVIRONMENTS),
}
"""Question type -> its possible answers, each right equally often."""

DESCRIPTION = "description"
"""What rows that describe a frame have in place of a question type."""

SHARES = {"validation": range(0, 2), "test": range(2, 4), "train": range(4, 16)}
"""Which sixteenths of all combinations each split draws from."""

Card = TypeVar("Card")


class Question(NamedTuple):
    """What is asked about a scene, and which of its frames are shown."""

    kind: str
    text: str
    answer: str
    frames: tuple[int, ...] = (1,)


class Scene(NamedTuple):
    """One combination: a place, the things from left to right, the two actions in order."""

    environment: str
    things: tuple[Thing, ...]
    actions: tuple[str, str]

    def split(self) -> str:
        """The split that this combination belongs to, whatever is done in it."""
        still = repr((self.environment, *map(tuple, self.things)))
        sixteenth = hashlib.sha256(still.encode()).digest()[0] % 16
        return next(name for name, share in SHARES.items() if sixteenth in share)


class _Deck(Generic[Card]):
    """Draws cards without replacement and shuffles anew: every card comes equally often."""

    def __init__(self, cards: Sequence[Card], stream: random.Random) -> None:
        self._cards, self._stream = tuple(cards), stream
        self._left: list[Card] = []

    def draw(self) -> Card:
        if not self._left:
            self._refill()
        return self._left.pop()

    def exchange(self, card: Card) -> Card:
        """Another card for one that cannot be used now; that one comes later."""
        if len(self._left) < len(self._cards):
            self._refill()
        place = self._stream.randrange(len(self._left))
        self._left[place], card = card, self._left[place]
        return card

    def _refill(self) -> None:
        self._left = [*self._stream.sample(self._cards, len(self._cards)), *self._left]


class Egocentric(Source):
    """First-person scenes (kitchen, office, workshop, street, garden) with seven questions each.

    The metadata has `question_type`, `environment` and `scene`, a number that questions about the
    same frames share.
    """

    source: Literal["egocentric"] = "egocentric"
    train: int = Field(600, ge=1, description="scenes, of seven questions each")
    validation: int = Field(20, ge=0, description="scenes")
    test: int = Field(80, ge=0, description="scenes")
    seed: int = Field(0, ge=0)
    described: int = Field(
        1200,
        ge=0,
        description="more training scenes, whose two frames are described, not asked about",
    )
    cell_pixels: int = Field(
        UNITS, ge=UNITS, le=256, multiple_of=16, description="a frame is four by three cells"
    )
    prompt: str = Field(
        "{question}",
        min_length=1,
        pattern=r"\{question\}",
        description="{question} is replaced; the frames stand in front",
    )
    licence: str | None = "CC0-1.0"

    @model_validator(mode="after")
    def _enough_combinations(self) -> Egocentric:
        pool = len(ENVIRONMENTS) * len(ACTIONS) * (len(ACTIONS) - 1)
        pool *= COLUMNS * len(THINGS) * len(COLOURS)
        # Those with one thing are the fewest, and a quarter of all; half of them are left undrawn.
        for split, share in SHARES.items():
            wanted = getattr(self, split) + (self.described if split == "train" else 0)
            if wanted // 4 > pool * len(share) // 16 // 2:
                raise ValueError(f"{split} asks for more scenes than there are combinations")
        return self

    def rows(self) -> Iterator[Row]:
        """Train, validation and test scenes, all rows of one after another."""
        for split, asked, described in (
            ("train", self.train, self.described),
            ("validation", self.validation, 0),
            ("test", self.test, 0),
        ):
            dealer = _Dealer(random.Random(f"limbeck egocentric {VERSION} {self.seed} {split}"))
            seen: set[Scene] = set()
            while len(seen) < asked + described:
                scene, questions = dealer.deal(split, seen)
                seen.add(scene)
                frames = self._frames(scene, dealer.stream)
                if len(seen) > asked:
                    questions = list(_descriptions(scene))
                for question in questions:
                    yield self._row(scene, question, frames, split, len(seen))

    def content_key(self) -> Any:
        """The version of the generator; all else is in the fields."""
        return {"egocentric": VERSION}

    def _frames(self, scene: Scene, stream: random.Random) -> list[bytes]:
        skin, shift = any_skin(stream), (stream.randint(-1, 1), stream.randint(-1, 1))
        return [
            draw_scene(
                environment=scene.environment,
                things=scene.things,
                action=action,
                skin=skin,
                shift=shift,
                cell_pixels=self.cell_pixels,
            )
            for action in scene.actions
        ]

    def _row(
        self, scene: Scene, question: Question, frames: list[bytes], split: str, number: int
    ) -> Row:
        assert scene.split() == split, "a held-out scene would be trained on"
        shown = [frames[number] for number in question.frames]
        text = self.prompt.replace("{question}", question.text)
        parts = [*({"type": "image"} for _ in shown), {"type": "text", "text": text}]
        kind = DESCRIPTION if question.kind.startswith(DESCRIPTION) else question.kind
        return Row(
            id=f"{split}-{number:06d}-{question.kind.replace(' ', '-')}",
            where=f"egocentric:{split}:{number}",
            messages=[{"role": "user", "content": parts}],
            images=list(shown),
            references=[question.answer],
            split=split,
            metadata={
                "question_type": kind,
                "environment": scene.environment,
                "scene": f"{split}-{number:06d}",
            },
        )


class _Dealer:
    """Makes scenes with questions whose answers are dealt, and the rest drawn."""

    def __init__(self, stream: random.Random) -> None:
        self.stream = stream
        self._environments = _Deck(tuple(ENVIRONMENTS), stream)
        self._counts = _Deck(range(1, COLUMNS + 1), stream)
        self._kinds = _Deck(tuple(THINGS), stream)
        self._columns = _Deck(range(COLUMNS), stream)
        self._colours = _Deck(tuple(COLOURS), stream)
        pairs = [(one, two) for one in ACTIONS for two in ACTIONS if one != two]
        self._actions = _Deck([(pair, order) for pair in pairs for order in ORDERS], stream)

    def deal(self, split: str, seen: set[Scene]) -> tuple[Scene, list[Question]]:
        """A new scene of the split: what no question is about is drawn until it is one."""
        environment, count = self._environments.draw(), self._counts.draw()
        kind, column, colour = self._kinds.draw(), self._columns.draw(), self._colours.draw()
        actions, order = self._actions.draw()
        while True:
            asked = [self.stream.randrange(count) for _ in range(3)]
            kinds = self._others(THINGS, count, kind, asked[0])
            columns = self._others(range(COLUMNS), count, column, asked[1])
            colours = self._others(COLOURS, count, colour, asked[2])
            things = [Thing(*parts) for parts in zip(kinds, colours, columns, strict=True)]
            ordered = tuple(sorted(things, key=lambda thing: thing.column))
            scene = Scene(environment, ordered, actions)
            if scene.split() == split and scene not in seen:
                break
            if count == 1:  # all of it is dealt
                kind, colour = self._kinds.exchange(kind), self._colours.exchange(colour)
        return scene, list(_questions(scene, [things[index] for index in asked], order))

    def _others(self, choices: Any, count: int, dealt: Any, place: int) -> list[Any]:
        """`count` different choices, with the dealt one at its place."""
        rest = self.stream.sample([choice for choice in choices if choice != dealt], count - 1)
        return [*rest[:place], dealt, *rest[place:]]


def _questions(scene: Scene, asked: list[Thing], order: str) -> Iterator[Question]:
    named, placed, painted = asked
    yield Question("object recognition", f"What is on the {PLACES[named.column]}?", named.kind)
    yield Question(
        "spatial reasoning", f"Where is the {placed.colour} thing?", PLACES[placed.column]
    )
    yield Question("action understanding", "What am I doing?", scene.actions[-1])
    before = scene.actions[ORDERS.index(order)]
    yield Question("temporal", f"What did I do {order}?", before, frames=(0, 1))
    yield Question("counting", "How many things are there?", NUMBERS[len(scene.things) - 1])
    yield Question("attributes", f"What colour is on the {PLACES[painted.column]}?", painted.colour)
    yield Question("environment", "Where am I?", scene.environment)


def _descriptions(scene: Scene) -> Iterator[Question]:
    things = [f"{PLACES[thing.column]} {thing.colour} {thing.kind}" for thing in scene.things]
    for number, action in enumerate(scene.actions):
        text = f"{action} in the {scene.environment}: {', '.join(things)}."
        kind = f"{DESCRIPTION} of frame {number + 1}"
        yield Question(kind, "What do you see?", text, frames=(number,))
