"""Self-attention over the patches of one picture, never over the pictures of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from limbeck.encoders.students import EncoderStudent, TeacherShape

if TYPE_CHECKING:
    from torch import nn


class Attention(EncoderStudent):
    """Multi-head attention(d) and Linear(d -> 256); an adapter (teacher required).

    The published one was fed (B, d), which attends across the batch: a sample's output depended on
    its neighbours. Here the sequence is the sample's own grid of patches; of a text, one vector.
    """

    from_pixels: ClassVar[bool] = False
    has_map: ClassVar[bool] = True

    kind: Literal["attention"] = "attention"
    heads: int = Field(8, gt=0)

    def image_tower(self, shape: TeacherShape) -> nn.Module:
        """Over the grid."""
        from limbeck.encoders.students.attending import PatchAttention

        return PatchAttention(shape.width, self.heads, self.embedding)

    def text_tower(self, shape: TeacherShape) -> nn.Module:
        """Over a sequence of one."""
        from limbeck.encoders.students.attending import TextAttention

        return TextAttention(shape.width, self.heads, self.embedding)
