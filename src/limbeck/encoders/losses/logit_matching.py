"""KL(p || q) T^2 or the mean squared difference of the logits, p the teacher's, q the student's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from limbeck.encoders.losses import EncoderLoss, View, both_ways, is_paired
from limbeck.losses.functional import divergence_rows
from limbeck.records import Dense

if TYPE_CHECKING:
    from torch import Tensor, nn


class LogitMatching(EncoderLoss):
    """Hinton et al. 2015; the teacher's logits over classes or over the captions of the batch."""

    kind: Literal["logit_matching"] = "logit_matching"
    measure: Literal["kl", "mse"] = "kl"
    temperature: float = Field(2.0, gt=0, description="of kl")

    def __call__(
        self, student: View, teacher: View, labels_B: Tensor, projector: nn.Module | None
    ) -> Tensor:
        """Over all directions of the batch."""
        paired = is_paired(labels_B, student)
        values = [
            divergence_rows(own, Dense(theirs), temperature=self.temperature)
            if self.measure == "kl"
            else (own - theirs.detach()).square().mean(1)
            for own, theirs in zip(
                both_ways(student, paired), both_ways(teacher, paired), strict=True
            )
        ]
        return sum(values) / len(values)  # type: ignore[return-value]
