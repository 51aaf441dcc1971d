"""A small vision transformer of transformers' own class, on raw pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from limbeck.encoders.students import EncoderStudent, TeacherShape

if TYPE_CHECKING:
    from torch import nn


class Vit(EncoderStudent):
    """`ViTModel` and Linear(width -> 256); a student from pixels."""

    from_pixels: ClassVar[bool] = True
    has_map: ClassVar[bool] = True

    kind: Literal["vit"] = "vit"
    hidden_size: int = Field(192, gt=0)
    layers: int = Field(6, gt=0)
    heads: int = Field(3, gt=0)
    image_size: int = Field(96, gt=0, description="pixels of a side")
    patch_size: int = Field(16, gt=0, description="pixels of a side")

    def image_tower(self, shape: TeacherShape) -> nn.Module:
        """On the pixels, resized."""
        from limbeck.encoders.students.transformer import VitTower

        return VitTower(self, shape)

    def text_tower(self, shape: TeacherShape) -> nn.Module:
        """On the teacher's text vectors."""
        from limbeck.encoders.students.towers import narrow

        return narrow(shape.width, self.embedding)
