"""Cross-entropy of the student with the answer, -log q(y), q = softmax(logits) at T = 1 always.

Direction: none (y is one token: the teacher's text or the gold answer, see `target`). Reduction:
sum over the N supervised rows.
"""

from __future__ import annotations

from typing import Literal

from limbeck.losses import Loss
from limbeck.losses.functional import cross_entropy_rows
from limbeck.records import LossTerm, StudentView, TeacherSignal


class CrossEntropy(Loss):
    """Makes the answer's tokens likely; needs no distributions of the teacher."""

    kind: Literal["cross_entropy"] = "cross_entropy"

    def __call__(self, student: StudentView, teacher: TeacherSignal | None) -> LossTerm:
        """Sum over the N rows of -log q(label), and N."""
        values_N = cross_entropy_rows(student.logits_NV, student.labels_N)
        return LossTerm(values_N.sum(), values_N.shape[0])
