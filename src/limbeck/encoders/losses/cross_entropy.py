"""-log q(label): the labels alone. In retrieval InfoNCE over the batch, both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from limbeck.encoders.losses import EncoderLoss, View, both_ways, is_paired
from limbeck.losses.functional import cross_entropy_rows

if TYPE_CHECKING:
    from torch import Tensor, nn


class CrossEntropy(EncoderLoss):
    """What every distilled student has to beat."""

    kind: Literal["cross_entropy"] = "cross_entropy"

    def __call__(
        self, student: View, teacher: View, labels_B: Tensor, projector: nn.Module | None
    ) -> Tensor:
        """At temperature 1."""
        sides = both_ways(student, is_paired(labels_B, student))
        return sum(cross_entropy_rows(side, labels_B) for side in sides) / len(sides)  # type: ignore[return-value]
