"""The sizes of a model as far as memory, disk and time depend on them. No torch, no weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

Piece = Literal["vision_tower", "projector", "language_model", "embedding", "head"]
PIECES: tuple[Piece, ...] = ("vision_tower", "projector", "language_model", "embedding", "head")
"""As a family's parts, with the embedding apart: it is no matrix that is quantised or adapted."""


@dataclass(frozen=True)
class Counted:
    """Parameters of a piece.

    Attributes:
        total: all of them.
        matrices: those in the weights of linear layers, which are quantised and adapted.
        adapted: rows + columns of those weights, summed: a low-rank adapter has rank times that.
        rows: outputs of those weights, summed: what a DoRA adapter has besides.
    """

    total: int = 0
    matrices: int = 0
    adapted: int = 0
    rows: int = 0

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            self.total + other.total,
            self.matrices + other.matrices,
            self.adapted + other.adapted,
            self.rows + other.rows,
        )

    def __mul__(self, times: int) -> Counted:
        return Counted(
            self.total * times, self.matrices * times, self.adapted * times, self.rows * times
        )


@dataclass(frozen=True)
class Sizes:
    """Of the two transformers in a vision-language model.

    Attributes:
        family: `model_type` of its checkpoints.
        vocabulary: rows of the embedding.
        width: of the language model; `layers`, `intermediate` (feed-forward) and `heads`, too.
        query_width: heads times the width of a head; `key_value_width` as well, of the shared ones.
        vision_width: of the vision tower, and so on.
        patch_side: pixels of a patch's side.
        frames: pictures that a patch takes in (2 where the family has films).
        patches_per_token: how many patches become one visual token.
        tied: whether the head's weight is the embedding's.
    """

    family: str
    vocabulary: int
    width: int
    layers: int
    intermediate: int
    heads: int
    query_width: int
    key_value_width: int
    vision_width: int
    vision_layers: int
    vision_intermediate: int
    vision_heads: int
    patch_side: int
    patches_per_token: int
    frames: int = 1
    tied: bool = True


@dataclass(frozen=True)
class Shape:
    """Sizes and parameters of a model, and where they were read.

    Attributes:
        sizes: of its two transformers.
        counted: parameters of every piece.
        layer: of one layer of vision tower and language model.
        stored: precision of the weights on disk: float32, bfloat16 or float16.
        source: where this was read, in words.
        at_most: whether the vocabulary is only known from above.
    """

    sizes: Sizes
    counted: Mapping[Piece, Counted]
    layer: Mapping[Piece, Counted]
    stored: str
    source: str
    at_most: bool = False

    @property
    def parameters(self) -> int:
        """All of them; a tied head counts once."""
        return sum(one.total for one in self.counted.values())

    def kept(self, language: int | None, vision: int | None) -> Shape:
        """The same with so many layers; None keeps all."""
        found = dict(self.counted)
        numbers = {"layers": language, "vision_layers": vision}
        pieces: dict[str, Piece] = {"layers": "language_model", "vision_layers": "vision_tower"}
        for name, number in numbers.items():
            if number is not None:
                left_out = getattr(self.sizes, name) - number
                found[pieces[name]] += self.layer[pieces[name]] * -left_out
        sizes = replace(self.sizes, **{n: v for n, v in numbers.items() if v is not None})
        return replace(self, sizes=sizes, counted=found)
