"""Losses of the encoder study, one a file. Each returns one value a sample; the loop averages.

Logits are over the classes, or, in retrieval, over the captions of the batch: then both directions
count. Shapes: B samples, E and D the widths of student and teacher, K classes (or B), G cells.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from limbeck.recipe.component import Component

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class View:
    """What a model, student or teacher, makes of a batch. Embeddings have norm 1.

    `keys_BE` are the vectors of each sample's own class or caption.
    """

    embedding_BE: Tensor
    logits_BK: Tensor
    keys_BE: Tensor | None = None
    map_BG: Tensor | None = None


class EncoderLoss(Component):
    """Base of every loss of the study."""

    trains_head: ClassVar[bool] = True
    """Whether it moves the logits; else a student is judged by kNN."""
    needs_map: ClassVar[bool] = False

    weight: float = Field(1.0, ge=0)

    def projector(self, student_width: int, teacher_width: int) -> nn.Module | None:
        """What belongs to training and is not deployed."""
        return None

    def __call__(
        self, student: View, teacher: View, labels_B: Tensor, projector: nn.Module | None
    ) -> Tensor:
        """One value for each sample, unweighted."""
        raise NotImplementedError


def both_ways(view: View, paired: bool) -> list[Tensor]:
    """The logits, and for pairs of pictures and captions the other direction too."""
    return [view.logits_BK, view.logits_BK.T] if paired else [view.logits_BK]


def is_paired(labels_B: Tensor, view: View) -> bool:
    """Whether the batch is one of retrieval: sample i belongs to column i."""
    import torch

    count = len(labels_B)
    own = torch.arange(count, device=labels_B.device)
    return view.logits_BK.shape[1] == count and bool((labels_B == own).all())
