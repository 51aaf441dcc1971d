"""Which parameters of a model are trained: an adapter's, or all but those of frozen parts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limbeck.planning.counting import linear
from limbeck.planning.shape import PIECES, Counted, Piece, Shape
from limbeck.recipe.sections import Adapter, PartName

OF_PART: dict[PartName, tuple[Piece, ...]] = {
    "vision_tower": ("vision_tower",),
    "projector": ("projector",),
    "language_model": ("language_model", "embedding"),
    "head": ("head",),
}


@dataclass(frozen=True)
class Trained:
    """Trained parameters.

    Attributes:
        adapter: those of low-rank adapters.
        own: the model's own, by piece.
        adapted: pieces that adapters are on.
    """

    adapter: int
    own: dict[Piece, Counted]
    adapted: tuple[Piece, ...] = ()

    @property
    def total(self) -> int:
        """All of them."""
        return self.adapter + sum(one.total for one in self.own.values())

    @property
    def matrices(self) -> int:
        """Those in weights with two axes, adapters' among them: what Muon takes."""
        return self.adapter + sum(one.matrices for one in self.own.values())

    def reaches(self, piece: Piece) -> bool:
        """Whether gradients go through a piece."""
        order: tuple[Piece, ...] = ("vision_tower", "projector", "language_model")
        below = order[: order.index(piece) + 1]
        if piece == "language_model" and ("embedding" in self.own):
            return True
        return any(one in self.own or one in self.adapted for one in below)

    def head_trained(self, shape: Shape) -> bool:
        """Whether the head's weight has a gradient; tied, it is the embedding."""
        return ("embedding" if shape.sizes.tied else "head") in self.own


def trained(shape: Shape, adapter: Adapter | None, freeze: Sequence[PartName]) -> Trained:
    """What `models.adapt.prepare_for_training` trains.

    A low-rank adapter of a weight [O, I] has rank * (I + O) parameters (Hu et al. 2021, section
    4.1); DoRA has one for each of its O outputs besides (Liu et al. 2024, equation 5).
    """
    if adapter is None:
        frozen = {piece for part in freeze for piece in OF_PART[part]}
        if shape.sizes.tied and "head" in freeze:
            frozen |= {"embedding"}
        return Trained(0, {p: shape.counted[p] for p in PIECES if p not in frozen})
    pieces = tuple(piece for part in adapter.parts for piece in OF_PART[part])
    pieces = tuple(piece for piece in pieces if shape.counted[piece].matrices)
    size = 0
    for piece in pieces:
        own = _targets(shape, piece, adapter.targets)
        size += adapter.rank * own.adapted + (own.rows if adapter.kind == "dora" else 0)
    return Trained(size, {}, pieces)


def _targets(shape: Shape, piece: Piece, targets: Sequence[str]) -> Counted:
    """The weights of a piece that adapters go on; other pieces' names are not known: all there."""
    if targets == "all_linear" or piece != "language_model":
        return shape.counted[piece]
    sizes = shape.sizes
    known = {
        "q_proj": (sizes.width, sizes.query_width),
        "k_proj": (sizes.width, sizes.key_value_width),
        "v_proj": (sizes.width, sizes.key_value_width),
        "o_proj": (sizes.query_width, sizes.width),
        "gate_proj": (sizes.width, sizes.intermediate),
        "up_proj": (sizes.width, sizes.intermediate),
        "down_proj": (sizes.intermediate, sizes.width),
    }
    chosen = [linear(*known[name]) for name in targets if name in known]
    return sum(chosen, Counted()) * sizes.layers
