"""Attention maps of chosen layers: d(a_teacher, a_student) for every query row, over the same keys.

a is the mean over heads of a layer's attention weights from an answer token to the keys of one
block, made to sum to 1 there: `vision`, the visual tokens, or `text`, all other tokens before and
of the answer. d is KL(a_teacher || a_student) or the squared difference summed over the keys. Where
the models have other numbers of visual tokens, the teacher's map is resampled to the student's grid
first.

Direction: forward KL. Reduction: mean over pairs of layers, sum over the N supervised rows.

Source: Zagoruyko and Komodakis 2017, "Paying more attention to attention"; Jiao et al. 2020,
"TinyBERT", equation 7; KL over rows as in Wang et al. 2020, "MiniLM", equation 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from limbeck.errors import UsageError
from limbeck.losses.feature_loss import (
    LAYERS,
    FeatureLoss,
    Layers,
    Pair,
    exact,
    layer_pairs,
)
from limbeck.losses.resampling import resampled
from limbeck.records import Features, Grid, LossTerm, ModelShape, StudentView, Tap

if TYPE_CHECKING:
    from torch import Tensor, nn

SMALLEST = 1e-9
"""Weights below count as this much: a row of zeros has no direction, and log 0 no value."""


class AttentionTransfer(FeatureLoss):
    """Makes the student look where the teacher looks; needs `attention: eager` on both models."""

    needs_eager_attention: ClassVar[bool] = True

    kind: Literal["attention_transfer"] = "attention_transfer"
    layers: Layers = LAYERS
    keys: Literal["vision", "text"] = Field(
        "vision", description="what is looked at: the visual tokens, or all others"
    )
    measure: Literal["kl", "mse"] = Field("kl", description="distance of two rows of weights")

    def pairs(self, student: ModelShape, teacher: ModelShape) -> list[Pair]:
        """The layers that `layers` pairs."""
        numbers = layer_pairs(self.layers, student.layers, teacher.layers)
        return [
            (Tap("attention", own, self.keys), Tap("attention", theirs, self.keys))
            for own, theirs in numbers
        ]

    def compare(
        self,
        student: StudentView,
        teacher: Features,
        pairs: Sequence[Pair],
        projector: nn.Module | None,
    ) -> LossTerm:
        """Sum over the supervised rows of the mean over pairs, and the number of rows."""
        import torch

        sums: list[Tensor] = []
        count = 0
        for own_tap, their_tap in pairs:
            values = [
                self._rows(own, theirs, student.features.grids[at], teacher.grids[at])
                for at, (own, theirs) in enumerate(
                    zip(student.features.tensors[own_tap], teacher.tensors[their_tap], strict=True)
                )
            ]
            values_N = torch.cat(values)
            sums.append(values_N.sum())
            count = len(values_N)
        return LossTerm(torch.stack(sums).mean(), count)

    def _rows(
        self,
        own_NK: Tensor,
        theirs_NK: Tensor,
        own_grids: tuple[Grid, ...] | None,
        their_grids: tuple[Grid, ...] | None,
    ) -> Tensor:
        if not own_NK.shape[1]:  # no pictures, so nothing to look at
            return exact(own_NK).sum(1)
        theirs_NK = theirs_NK.detach()
        if self.keys == "vision":
            keys = own_NK.shape[1]
            theirs_NK = resampled(exact(theirs_NK).T, their_grids, own_grids, keys).T
        if own_NK.shape != theirs_NK.shape:
            raise UsageError(
                f"the student attends from {own_NK.shape[0]} to {own_NK.shape[1]} tokens and the"
                f" teacher from {theirs_NK.shape[0]} to {theirs_NK.shape[1]}",
                where=f"losses: {self.kind}",
                mend="use models of one tokenizer and chat template, or keys: vision",
            )
        p_NK, q_NK = _summing_to_one(theirs_NK), _summing_to_one(own_NK)
        if self.measure == "mse":
            return (p_NK - q_NK).square().sum(-1)
        return (p_NK * (p_NK.log() - q_NK.log())).sum(-1)


def _summing_to_one(weights_NK: Tensor) -> Tensor:
    weights_NK = exact(weights_NK).clamp(min=SMALLEST)
    return weights_NK / weights_NK.sum(-1, keepdim=True)
