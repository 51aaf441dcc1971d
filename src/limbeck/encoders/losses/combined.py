"""Contrastive + KL: InfoNCE between pictures and the vectors of their classes or captions, and KL.

contrastive_i = -mean over j with label_j = label_i of log softmax_j(scale x_i . k_j)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from limbeck.encoders.losses import EncoderLoss, View
from limbeck.encoders.losses.logit_matching import LogitMatching

if TYPE_CHECKING:
    from torch import Tensor, nn


class Combined(EncoderLoss):
    """Samples of one class are all positives of one another (Khosla et al. 2020, equation 2)."""

    kind: Literal["combined"] = "combined"
    contrastive: float = Field(0.5, ge=0, description="weight of the contrastive part")
    kl: float = Field(0.5, ge=0, description="weight of KL")
    scale: float = Field(10.0, gt=0, description="multiplies cosines")
    temperature: float = Field(2.0, gt=0, description="of KL")

    def __call__(
        self, student: View, teacher: View, labels_B: Tensor, projector: nn.Module | None
    ) -> Tensor:
        """Both parts by their weights."""
        assert student.keys_BE is not None
        same_BB = (labels_B[:, None] == labels_B[None]).to(student.embedding_BE.dtype)
        log_q_BB = (self.scale * student.embedding_BE @ student.keys_BE.T).log_softmax(1)
        contrastive_B = -(same_BB * log_q_BB).sum(1) / same_BB.sum(1)
        matching = LogitMatching(temperature=self.temperature)
        return self.contrastive * contrastive_B + self.kl * matching(
            student, teacher, labels_B, None
        )
