"""Relations between samples, or between the visual tokens of one picture, as the teacher has them.

With x_i the student's states and y_i the teacher's, i = 1..m, no widths have to agree:

    distance    Huber(|x_i - x_j| / mean, |y_i - y_j| / mean), mean over ordered pairs i != j
    angle       Huber(cos angle(x_i x_j x_k), cos angle(y_i y_j y_k)), mean over triples
    similarity  |G_x - G_y|^2 / m^2, G the matrix of inner products, each row of norm 1

`between: samples` compares the means over answer tokens of the last layer's hidden states of the
samples of a micro-batch: relations to samples of other micro-batches are not seen, so results
depend on `training.samples_per_micro_batch`. `between: vision_tokens` compares the visual tokens
of each sample, on the student's grid.

Direction: symmetric. Reduction: the value for m samples times m, or the sum over samples with
pictures.

Source: Park et al. 2019, "Relational Knowledge Distillation", equations 5-8 (mean distance as their
mu, Huber with delta 1); Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation",
equations 2-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from limbeck.errors import UsageError
from limbeck.losses.feature_loss import FeatureLoss, Pair, exact
from limbeck.losses.resampling import resampled
from limbeck.records import AnswerSize, Features, LossTerm, ModelShape, StudentView, Tap

if TYPE_CHECKING:
    from torch import Tensor, nn

MOST_FOR_ANGLES = 128
"""States of which all triples are looked at: their number is this to the third."""

SMALLEST = 1e-8
"""Added to norms: points that coincide have neither distance nor angle."""


class Relational(FeatureLoss):
    """Keeps what is alike alike; needs no projector."""

    kind: Literal["relational"] = "relational"
    between: Literal["samples", "vision_tokens"] = Field(
        "vision_tokens", description="what is related to one another"
    )
    relation: Literal["distance", "angle", "similarity"] = Field(
        "similarity", description="distance and angle as in RKD, similarity as in SP"
    )

    def pairs(self, student: ModelShape, teacher: ModelShape) -> list[Pair]:
        """Last hidden states, or what the language models get of the pictures."""
        if self.between == "samples":
            return [(Tap("hidden", student.layers - 1), Tap("hidden", teacher.layers - 1))]
        return [(Tap("vision", place="projector"), Tap("vision", place="projector"))]

    def count_of(self, answers: AnswerSize) -> int:
        """Samples, or samples with pictures."""
        return answers.samples if self.between == "samples" else answers.pictured

    def compare(
        self,
        student: StudentView,
        teacher: Features,
        pairs: Sequence[Pair],
        projector: nn.Module | None,
    ) -> LossTerm:
        """As the head of this file says."""
        import torch

        ((own_tap, their_tap),) = pairs
        own, theirs = student.features.tensors[own_tap], teacher.tensors[their_tap]
        if self.between == "samples":
            x_MH, y_MH = (torch.stack([exact(t).mean(0) for t in side]) for side in (own, theirs))
            return LossTerm(self._related(x_MH, y_MH.detach()) * len(own), len(own))
        values: list[Tensor] = []
        for at, (one, other) in enumerate(zip(own, theirs, strict=True)):
            if not len(one):
                continue
            target = resampled(
                exact(other.detach()), teacher.grids[at], student.features.grids[at], len(one)
            )
            values.append(self._related(exact(one), target))
        if not values:
            return LossTerm(own[0].float().sum(), 0)
        return LossTerm(torch.stack(values).sum(), len(values))

    def _related(self, x_MH: Tensor, y_MH: Tensor) -> Tensor:
        """One number for m related states of both models."""
        from torch.nn.functional import huber_loss

        count = len(x_MH)
        if self.relation == "similarity":
            return (_similarities(x_MH) - _similarities(y_MH)).square().sum() / count**2
        if self.relation == "angle" and count > MOST_FOR_ANGLES:
            raise UsageError(
                f"{count} states have too many triples",
                where=f"losses: {self.kind}",
                mend=f"use relation: distance or similarity above {MOST_FOR_ANGLES} states",
            )
        relate = _distances if self.relation == "distance" else _angles
        if count < (2 if self.relation == "distance" else 3):
            return x_MH.sum() * 0
        own, theirs = relate(x_MH), relate(y_MH)
        return huber_loss(own, theirs, reduction="mean", delta=1.0)


def _similarities(x_MH: Tensor) -> Tensor:
    gram_MM = x_MH @ x_MH.T
    return gram_MM / (gram_MM.square().sum(-1, keepdim=True).sqrt() + SMALLEST)


def _distances(x_MH: Tensor) -> Tensor:
    """Distances of all pairs i != j over their mean."""
    import torch

    different_MM = ~torch.eye(len(x_MH), dtype=torch.bool, device=x_MH.device)
    squares = (x_MH[:, None] - x_MH[None]).square().sum(-1)[different_MM]
    distances = (squares + SMALLEST**2).sqrt()
    return distances / (distances.mean() + SMALLEST)


def _angles(x_MH: Tensor) -> Tensor:
    """Cosines of the angles at j between i and k, all different."""
    import torch
    from torch.nn.functional import normalize

    edges_MMH = normalize(x_MH[None] - x_MH[:, None], dim=-1, eps=SMALLEST)
    cosines_MMM = edges_MMH @ edges_MMH.transpose(1, 2)
    j, i, k = torch.meshgrid(*[torch.arange(len(x_MH), device=x_MH.device)] * 3, indexing="ij")
    return cosines_MMM[(i != j) & (k != j) & (i != k)]
