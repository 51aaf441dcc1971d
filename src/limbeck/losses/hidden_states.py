"""Hidden states of chosen layers at the answer's tokens: d(P h_student, h_teacher).

d is the mean squared difference over the teacher's width, or 1 - cosine; P a learned linear map
(identity where widths are equal, unless `project` is always). Direction: the student is drawn to
the teacher. Reduction: mean over pairs of layers, sum over the N supervised rows.

Source: Romero et al. 2015, "FitNets", equation 3; Sun et al. 2019, "Patient Knowledge
Distillation", equation 7. Aligning many layers by squared error has hurt in published ablations,
and the last layer beside the logits has helped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from limbeck.losses.feature_loss import (
    LAYERS,
    FeatureLoss,
    Layers,
    Pair,
    layer_pairs,
    linear_projectors,
    projected,
    require_rows,
    row_distances,
)
from limbeck.records import Features, LossTerm, ModelShape, StudentView, Tap

if TYPE_CHECKING:
    from torch import Tensor, nn


class HiddenStates(FeatureLoss):
    """Draws the student's states at the answer's tokens to the teacher's."""

    kind: Literal["hidden_states"] = "hidden_states"
    layers: Layers = LAYERS
    measure: Literal["mse", "cosine"] = Field("cosine", description="distance of two states")
    project: Literal["where_needed", "always"] = Field(
        "where_needed", description="a learned linear map where widths differ, or in any case"
    )

    def pairs(self, student: ModelShape, teacher: ModelShape) -> list[Pair]:
        """The layers that `layers` pairs."""
        numbers = layer_pairs(self.layers, student.layers, teacher.layers)
        return [(Tap("hidden", own), Tap("hidden", theirs)) for own, theirs in numbers]

    def projector(self, student: ModelShape, teacher: ModelShape) -> nn.Module | None:
        """One map for each pair of layers."""
        widths = [(student.width(a), teacher.width(b)) for a, b in self.pairs(student, teacher)]
        return linear_projectors(widths, self.project == "always")

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
        for number, (own_tap, their_tap) in enumerate(pairs):
            own, theirs = student.features.tensors[own_tap], teacher.tensors[their_tap]
            for one, other in zip(own, theirs, strict=True):
                require_rows(one, other, self.kind)
            state = projected(projector, number, torch.cat(own))
            distances_N = row_distances(state, torch.cat(theirs), self.measure)
            sums.append(distances_N.sum())
            count = len(distances_N)
        return LossTerm(torch.stack(sums).mean(), count)
