"""One linear layer on the teacher's features."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck.encoders.students import EncoderStudent, TeacherShape

if TYPE_CHECKING:
    from torch import nn


class Projection(EncoderStudent):
    """Linear(d -> 256); an adapter (teacher required)."""

    from_pixels: ClassVar[bool] = False

    kind: Literal["projection"] = "projection"

    def image_tower(self, shape: TeacherShape) -> nn.Module:
        """On the pooled features."""
        from torch import nn

        from limbeck.encoders.students.towers import Pooled

        return Pooled(nn.Linear(shape.width, self.embedding))

    def text_tower(self, shape: TeacherShape) -> nn.Module:
        """The same, with weights of its own."""
        from torch import nn

        return nn.Linear(shape.width, self.embedding)
