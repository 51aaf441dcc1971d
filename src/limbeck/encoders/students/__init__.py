"""Students, one a file: what turns a picture (or the teacher's features of it) into an embedding.

An adapter takes the teacher's features, so the teacher is deployed with it; a student from pixels
takes the picture. With a teacher that reads text, a second tower takes the teacher's text vectors.

Shapes: B samples, D the teacher's width, G cells of the grid, E the student's width (256).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from limbeck.recipe.component import Component

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class TeacherShape:
    """What a student has to know of its teacher."""

    width: int
    reads_text: bool
    grid: int
    """Cells of a side of the grid that the teacher's patch features were pooled to."""


@dataclass(frozen=True)
class ImageInputs:
    """What a tower may take: pixels [B, 3, S, S] in -1..1, or the teacher's features."""

    pixels: Tensor | None = None
    pooled_BD: Tensor | None = None
    tokens_BGD: Tensor | None = None


class EncoderStudent(Component):
    """Base of every student."""

    from_pixels: ClassVar[bool]
    """False: an adapter (teacher required)."""
    has_map: ClassVar[bool] = False
    """Whether its tower says where it looks, as `attention_transfer` needs."""

    embedding: int = Field(256, gt=0, description="width of what it makes")

    def image_tower(self, shape: TeacherShape) -> nn.Module:
        """ImageInputs -> (embedding [B, E], map [B, G] or None)."""
        raise NotImplementedError

    def text_tower(self, shape: TeacherShape) -> nn.Module:
        """The teacher's text vectors [M, D] -> [M, E]."""
        raise NotImplementedError


def parameters(module: Any) -> int:
    """Parameters of a module, each once."""
    return sum(parameter.numel() for parameter in module.parameters())


def towers_mib(student: EncoderStudent, shape: TeacherShape) -> float:
    """fp32 MiB of a student's towers, as the published study counts them."""
    count = parameters(student.image_tower(shape))
    if shape.reads_text:
        count += parameters(student.text_tower(shape))
    return count * 4 / 2**20
