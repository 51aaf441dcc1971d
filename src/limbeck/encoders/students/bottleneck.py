"""Two linear layers with a narrow middle on the teacher's features."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck.encoders.students import EncoderStudent, TeacherShape

if TYPE_CHECKING:
    from torch import nn


class Bottleneck(EncoderStudent):
    """d -> 128, ReLU, 128 -> 256; an adapter (teacher required)."""

    from_pixels: ClassVar[bool] = False

    kind: Literal["bottleneck"] = "bottleneck"

    def image_tower(self, shape: TeacherShape) -> nn.Module:
        """On the pooled features."""
        from limbeck.encoders.students.towers import Pooled, narrow

        return Pooled(narrow(shape.width, self.embedding))

    def text_tower(self, shape: TeacherShape) -> nn.Module:
        """The same, with weights of its own."""
        from limbeck.encoders.students.towers import narrow

        return narrow(shape.width, self.embedding)
