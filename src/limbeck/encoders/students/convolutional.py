"""What the convolutional students share: a torchvision trunk, and the published narrow head."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from limbeck.encoders.students import EncoderStudent, TeacherShape

if TYPE_CHECKING:
    from torch import nn


class Convolutional(EncoderStudent):
    """A trunk on raw pixels, then width -> 128 -> 256; texts go through the same kind of head."""

    from_pixels: ClassVar[bool] = True
    has_map: ClassVar[bool] = True

    def trunk(self) -> tuple[nn.Module, int]:
        """[B, 3, S, S] -> [B, C, h, w], and C."""
        raise NotImplementedError

    def image_tower(self, shape: TeacherShape) -> nn.Module:
        """On the pixels."""
        from limbeck.encoders.students.towers import Pixels, narrow

        trunk, width = self.trunk()
        return Pixels(trunk, narrow(width, self.embedding), shape.grid)

    def text_tower(self, shape: TeacherShape) -> nn.Module:
        """On the teacher's text vectors."""
        from limbeck.encoders.students.towers import narrow

        return narrow(shape.width, self.embedding)
