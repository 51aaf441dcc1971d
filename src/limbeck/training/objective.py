"""The student's forward pass with all losses: one module, for DDP and autocast to wrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.losses import Loss
from limbeck.records import IGNORED, AnswerSize, StudentView, TeacherSignal, Unaligned

if TYPE_CHECKING:
    from limbeck.models.load import LoadedModel
    from limbeck.models.vocabulary import Vocabulary


class Objective(nn.Module):
    """Runs the student on a micro-batch and returns each loss's sum over the supervised rows.

    The language head runs on those rows only.
    """

    def __init__(
        self, student: LoadedModel, losses: Sequence[Loss], vocabulary: Vocabulary
    ) -> None:
        super().__init__()
        self.model: Any = student.model
        self._student, self._losses, self._vocabulary = student, tuple(losses), vocabulary

    def forward(
        self,
        inputs: dict[str, Tensor],
        targets_BL: Tensor,
        target: str,
        signal: TeacherSignal | None,
    ) -> Tensor:
        """Unweighted sums, one a loss [number of losses]; 0 for losses of another target."""
        rows_BL = targets_BL != IGNORED
        hidden_BLH = self._student.hidden_states(inputs)
        labels_N = self._vocabulary.columns_of(targets_BL[rows_BL])
        view = StudentView(labels_N, hidden_BLH[rows_BL], self._head)
        sums: list[Tensor] = []
        for loss in self._losses:
            if loss.target != target:
                sums.append(view.hidden_NH.new_zeros((), dtype=torch.float32))
                continue
            term = loss(view, signal if loss.needs_signal else None)
            assert term.count == loss.count_of(_size(view, signal)), f"{loss} dropped rows"
            sums.append(term.sum.float())
        return torch.stack(sums)

    def _head(self, hidden_NH: Tensor) -> Tensor:
        return self._vocabulary.of(self._student.head(hidden_NH))


def loss_names(losses: Sequence[Loss]) -> list[str]:
    """A readable, unique name for each loss, used in metrics.jsonl and on curves."""
    names: list[str] = []
    for loss in losses:
        fields = loss.model_dump()
        name = "_".join(str(fields[key]) for key in ("kind", "direction") if key in fields)
        while name in names:
            name += "+"
        names.append(name)
    return names


def on_device(signal: TeacherSignal, device: torch.device) -> TeacherSignal:
    """The same signal with its tensors on a device."""
    moved: dict[str, Any] = {
        n: v.to(device) for n, v in vars(signal).items() if isinstance(v, Tensor)
    }
    if isinstance(signal, Unaligned):
        moved["signal"] = on_device(signal.signal, device)
    return replace(signal, **moved)


def _size(view: StudentView, signal: TeacherSignal | None) -> AnswerSize:
    tokens = len(view.labels_N)
    return AnswerSize(tokens, signal.spans if isinstance(signal, Unaligned) else tokens)
