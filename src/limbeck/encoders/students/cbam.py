"""Channel and spatial attention on the grid of the teacher's patches, then a projection."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from limbeck.encoders.students import EncoderStudent, TeacherShape

if TYPE_CHECKING:
    from torch import nn


class Cbam(EncoderStudent):
    """Two CBAM blocks (reduction 16, 7x7) on vision and Linear(d -> 256); teacher required."""

    from_pixels: ClassVar[bool] = False
    has_map: ClassVar[bool] = True

    kind: Literal["cbam"] = "cbam"
    blocks: int = Field(2, gt=0)
    reduction: int = Field(16, gt=0)

    def image_tower(self, shape: TeacherShape) -> nn.Module:
        """On the grid."""
        from limbeck.encoders.students.attending import CbamTower

        return CbamTower(shape.width, self.blocks, self.reduction, self.embedding)

    def text_tower(self, shape: TeacherShape) -> nn.Module:
        """A projection."""
        from torch import nn

        return nn.Linear(shape.width, self.embedding)
