"""A student as it is trained: its towers, what its logits are taken against, and its scale."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from limbeck.encoders.losses import View
from limbeck.encoders.students import ImageInputs

if TYPE_CHECKING:
    from limbeck.encoders.students import EncoderStudent, TeacherShape

LARGEST_SCALE = 100.0
"""Of the learnt logit scale, as in CLIP."""


class StudentModel(nn.Module):
    """Towers and a learnt scale; without texts one vector for each class is learnt."""

    def __init__(self, student: EncoderStudent, shape: TeacherShape, classes: int) -> None:
        super().__init__()
        self.image = student.image_tower(shape)
        self.text = student.text_tower(shape) if shape.reads_text else None
        vectors = torch.randn(classes, student.embedding) / student.embedding**0.5
        self.classes = None if shape.reads_text else nn.Parameter(vectors)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def keys(self, texts_MD: Tensor | None) -> Tensor:
        """Vectors of norm 1 of texts, or of the classes."""
        if self.text is not None:
            assert texts_MD is not None
            return normalize(self.text(texts_MD), dim=1)
        assert self.classes is not None
        return normalize(self.classes, dim=1)

    def view(self, inputs: ImageInputs, keys_KE: Tensor, labels_B: Tensor) -> View:
        """What the losses see: logits against all keys."""
        made_BE, map_BG = self.image(inputs)
        embedding_BE = normalize(made_BE, dim=1)
        scale = self.log_scale.exp().clamp(max=LARGEST_SCALE)
        logits_BK = scale * embedding_BE @ keys_KE.T
        return View(embedding_BE, logits_BK, keys_KE[labels_B], map_BG)
