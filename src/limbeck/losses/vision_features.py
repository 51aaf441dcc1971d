"""Features of the pictures' patches: mean over a sample's tokens of d(P v_student, v_teacher).

d is the mean squared difference over the teacher's width, or 1 - cosine; P a learned linear map
(identity where widths are equal, unless `project` is always). Where pixel budgets or merge sizes
differ, so do grids: the teacher's features are resampled to the student's grid (t, h, w), linearly,
sample points at the tokens' centres. Nothing is ever cut off.

Direction: the student is drawn to the teacher. Reduction: mean over a sample's visual tokens, sum
over the samples that have pictures.

Source: the recipe of FitNets (Romero et al. 2015, equation 3) on visual tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from limbeck.errors import UsageError
from limbeck.losses.feature_loss import (
    FeatureLoss,
    Pair,
    exact,
    linear_projectors,
    projected,
    row_distances,
)
from limbeck.losses.resampling import resampled
from limbeck.records import AnswerSize, Features, LossTerm, ModelShape, StudentView, Tap

if TYPE_CHECKING:
    from torch import Tensor, nn


class VisionFeatures(FeatureLoss):
    """Draws what the student sees of a picture to what the teacher sees."""

    kind: Literal["vision_features"] = "vision_features"
    at: Literal["projector", "tower"] = Field(
        "projector",
        description="what the language model gets, or what the projector gets from the tower",
    )
    measure: Literal["mse", "cosine"] = Field("cosine", description="distance of two features")
    project: Literal["where_needed", "always"] = Field(
        "where_needed", description="a learned linear map where widths differ, or in any case"
    )

    def pairs(self, student: ModelShape, teacher: ModelShape) -> list[Pair]:
        """The same place in both models."""
        return [(Tap("vision", place=self.at), Tap("vision", place=self.at))]

    def projector(self, student: ModelShape, teacher: ModelShape) -> nn.Module | None:
        """One map."""
        ((own, theirs),) = self.pairs(student, teacher)
        return linear_projectors(
            [(student.width(own), teacher.width(theirs))], self.project == "always"
        )

    def count_of(self, answers: AnswerSize) -> int:
        """Samples with pictures."""
        return answers.pictured

    def compare(
        self,
        student: StudentView,
        teacher: Features,
        pairs: Sequence[Pair],
        projector: nn.Module | None,
    ) -> LossTerm:
        """Sum over samples with pictures of the mean over their tokens, and their number."""
        import torch

        ((own_tap, their_tap),) = pairs
        values: list[Tensor] = []
        for at, (own, theirs) in enumerate(
            zip(student.features.tensors[own_tap], teacher.tensors[their_tap], strict=True)
        ):
            if not len(own):
                continue
            target = exact(theirs.detach())
            if self.at == "projector":
                target = resampled(target, teacher.grids[at], student.features.grids[at], len(own))
            elif len(target) != len(own):
                raise UsageError(
                    f"the vision towers see {len(own)} and {len(target)} patches",
                    where=f"losses: {self.kind}",
                    mend="give both models one pixel budget and patch size, or set at: projector",
                )
            state = projected(projector, 0, own)
            values.append(row_distances(state, target, self.measure).mean())
        if not values:
            return LossTerm(student.features.tensors[own_tap][0].float().sum(), 0)
        return LossTerm(torch.stack(values).sum(), len(values))
