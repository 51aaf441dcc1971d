"""Cross-entropy of the student with the answer, -log q(y), q = softmax(logits) at T = 1 always.

Direction: none (y is one token: the teacher's text or the gold answer, see `target`). Reduction:
sum over the N supervised rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck.losses import Loss
from limbeck.losses.functional import cross_entropy_rows
from limbeck.records import LossTerm, StudentView, TeacherSignal

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.losses.block import Block


class CrossEntropy(Loss):
    """Makes the answer's tokens likely; needs no distributions of the teacher."""

    fused: ClassVar[bool] = True

    kind: Literal["cross_entropy"] = "cross_entropy"

    def __call__(self, student: StudentView, teacher: TeacherSignal | None) -> LossTerm:
        """Sum over the N rows of -log q(label), and N."""
        values_N = cross_entropy_rows(student.logits_NV, student.labels_N)
        return LossTerm(values_N.sum(), values_N.shape[0])

    def add_gradient(self, block: Block, weight: float) -> Tensor:
        """-log q(label) of every row; the gradient is q - 1 at the label and q elsewhere."""
        block.add_distribution(1.0, weight)
        block.add_labels(-weight)
        below_largest_N1 = block.largest_N1 - block.label_logits_N1
        return (block.at(1.0).log_sum_N1 + below_largest_N1).squeeze(-1)
