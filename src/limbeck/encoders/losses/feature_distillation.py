"""The student's embedding, projected, against the teacher's: squared difference or 1 - cosine."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck.encoders.losses import EncoderLoss, View

if TYPE_CHECKING:
    from torch import Tensor, nn


class FeatureDistillation(EncoderLoss):
    """With a linear projector that belongs to training; trains no head."""

    trains_head: ClassVar[bool] = False

    kind: Literal["feature_distillation"] = "feature_distillation"
    measure: Literal["mse", "cosine"] = "cosine"

    def projector(self, student_width: int, teacher_width: int) -> nn.Module:
        """Linear(E -> D)."""
        from torch import nn

        return nn.Linear(student_width, teacher_width)

    def __call__(
        self, student: View, teacher: View, labels_B: Tensor, projector: nn.Module | None
    ) -> Tensor:
        """Summed over the width."""
        from torch.nn.functional import cosine_similarity

        assert projector is not None
        own_BD, theirs_BD = projector(student.embedding_BE), teacher.embedding_BE.detach()
        if self.measure == "mse":
            return (own_BD - theirs_BD).square().sum(1)
        return 1 - cosine_similarity(own_BD, theirs_BD, dim=1)
