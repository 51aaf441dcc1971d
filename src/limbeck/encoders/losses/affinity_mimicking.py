"""KL between the affinities of a batch: softmax_j(scale x_i . y_j) of teacher and student.

y are the vectors of each sample's class or caption, or, of a teacher that reads no text, the
pictures themselves. Source: Wu et al. 2023, "TinyCLIP", equations 2 and 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from limbeck.encoders.losses import EncoderLoss, View

if TYPE_CHECKING:
    from torch import Tensor, nn


class AffinityMimicking(EncoderLoss):
    """Picture to text and text to picture, with equal weight."""

    trains_head: ClassVar[bool] = False

    kind: Literal["affinity_mimicking"] = "affinity_mimicking"
    scale: float = Field(10.0, gt=0, description="multiplies cosines")

    def __call__(
        self, student: View, teacher: View, labels_B: Tensor, projector: nn.Module | None
    ) -> Tensor:
        """Of both directions."""
        text = teacher.keys_BE is not None and student.keys_BE is not None
        own_BB, theirs_BB = (
            self.scale * view.embedding_BE @ (view.keys_BE if text else view.embedding_BE).T  # type: ignore[union-attr]
            for view in (student, teacher)
        )
        values = []
        for own, theirs in ((own_BB, theirs_BB.detach()), (own_BB.T, theirs_BB.detach().T)):
            log_p, log_q = theirs.log_softmax(1), own.log_softmax(1)
            values.append((log_p.exp() * (log_p - log_q)).sum(1))
        return (values[0] + values[1]) / 2
