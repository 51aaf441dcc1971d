"""KL(a_teacher || a_student) of where the models look, over the cells of one grid.

Source: Zagoruyko and Komodakis 2017, "Paying more attention to attention"; KL over the cells as in
`limbeck.losses.attention_transfer`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck.encoders.losses import EncoderLoss, View

if TYPE_CHECKING:
    from torch import Tensor, nn

SMALLEST = 1e-9


class AttentionTransfer(EncoderLoss):
    """Only for students with a map; add a term that trains the head."""

    trains_head: ClassVar[bool] = False
    needs_map: ClassVar[bool] = True

    kind: Literal["attention_transfer"] = "attention_transfer"

    def __call__(
        self, student: View, teacher: View, labels_B: Tensor, projector: nn.Module | None
    ) -> Tensor:
        """Summed over cells."""
        assert student.map_BG is not None
        assert teacher.map_BG is not None
        p_BG = teacher.map_BG.detach().clamp(min=SMALLEST)
        q_BG = student.map_BG.clamp(min=SMALLEST)
        return (p_BG * (p_BG.log() - q_BG.log())).sum(1)
