"""The verbalisers of student and teacher as one module, for `kind: verbalised`.

This is a folder because it imports torch: looking for losses by name imports the files beside it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from limbeck.records import StudentView

RULED_OUT = -1000.0


class Verbalisers(nn.Module):
    """What layers of both models say, as log-probabilities over the shared vocabulary.

    Args:
        student: verbalisers of the student's target layers; trained.
        teacher: those of the teacher's; not trained.
        head_VH: the teacher's head over the shared vocabulary; not trained, and not part of a
            checkpoint, since its stage holds it.
    """

    matches: Tensor

    def __init__(self, student: nn.ModuleList, teacher: nn.ModuleList, head_VH: Tensor) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher.requires_grad_(False)
        self.register_buffer("head_VH", head_VH, persistent=False)
        self.register_buffer("matches", torch.zeros(len(student), len(teacher)))

    @property
    def vocabulary(self) -> int:
        """Number of shared tokens."""
        return self.head_VH.shape[0]  # pyright: ignore

    def student_says(
        self, view: StudentView, states: Sequence[Tensor], layer: int, rows: slice
    ) -> Tensor:
        """Log-probabilities of the student's target layer on some rows."""
        said = view.head(self.student[layer](states[layer][rows]))
        return _log_probabilities(said)

    def teacher_says(self, states: Sequence[Tensor], layer: int, rows: slice) -> Tensor:
        """Log-probabilities of the teacher's target layer on some rows, without gradient."""
        with torch.no_grad():
            said = self.teacher[layer](states[layer][rows])
            return _log_probabilities(said.to(self.head_VH) @ self.head_VH.T)  # pyright: ignore

    def note(self, chosen: Sequence[int]) -> None:
        """Count a choice of teacher's layers."""
        with torch.no_grad():
            for layer, at in enumerate(chosen):
                self.matches[layer, at] += 1


def _log_probabilities(logits: Tensor) -> Tensor:
    """In float32; tokens that are ruled out stay finite, so that 0 times them is 0."""
    return logits.float().log_softmax(-1).clamp(min=RULED_OUT)
