"""The student's forward pass with all losses: one module, for DDP and autocast to wrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import UsageError
from limbeck.losses import Loss
from limbeck.losses.fused import fused_sums
from limbeck.losses.fused.memory import Buffers
from limbeck.models.linear_head import linear_head, why_not_linear
from limbeck.records import IGNORED, AnswerSize, StudentView, TeacherSignal, Unaligned

if TYPE_CHECKING:
    from limbeck.models.load import LoadedModel
    from limbeck.models.vocabulary import Vocabulary


class Objective(nn.Module):
    """Runs the student on a micro-batch and returns what its losses say of the supervised rows.

    The language head runs on those rows only. Where every loss has a fused form and the head is
    linear, head and losses run in one pass that never holds all logits; `why_plain` says what
    stands against it, and then the losses are computed from the logits.

    With `head_gradient_tolerance` the gradient of the head's weights is filtered; where there is
    none, or not in one pass, that is a UsageError.
    """

    def __init__(
        self,
        student: LoadedModel,
        losses: Sequence[Loss],
        vocabulary: Vocabulary,
        head_gradient_tolerance: float | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = student.model
        self._student, self._losses, self._vocabulary = student, tuple(losses), vocabulary
        self._tolerance, self._memory = head_gradient_tolerance, Buffers()
        self.why_plain = why_plain(student, losses, vocabulary)
        if head_gradient_tolerance is not None:
            _check_filter(student, self.why_plain)

    def forward(
        self,
        inputs: dict[str, Tensor],
        targets_BL: Tensor,
        target: str,
        signal: TeacherSignal | None,
        weights: Sequence[float],
    ) -> tuple[Tensor, Tensor]:
        """The losses' sums times `weights`, added up, and the sums [number of losses] themselves.

        Only the first has a graph. Losses of another target than the micro-batch's count 0.
        """
        rows_BL = targets_BL != IGNORED
        hidden_NH = self._student.hidden_states(inputs)[rows_BL]
        labels_N = self._vocabulary.columns_of(targets_BL[rows_BL])
        own = [number for number, loss in enumerate(self._losses) if loss.target == target]
        losses, own_weights = [self._losses[i] for i in own], [weights[i] for i in own]
        terms = self._plain if self.why_plain else self._fused
        total, own_sums = terms(hidden_NH, labels_N, losses, own_weights, signal)
        sums = own_sums.new_zeros(len(self._losses), dtype=torch.float32)
        sums[own] = own_sums.detach().float()
        return total, sums

    def _fused(
        self,
        hidden_NH: Tensor,
        labels_N: Tensor,
        losses: Sequence[Loss],
        weights: Sequence[float],
        signal: TeacherSignal | None,
    ) -> tuple[Tensor, Tensor]:
        first, size = self._vocabulary.first, self._vocabulary.size
        head = linear_head(self._student, hidden_NH, first, size)
        assert not isinstance(signal, Unaligned), "a loss over other rows is not fused"
        return fused_sums(
            head,
            labels_N,
            losses,
            weights,
            signal,
            tolerance=self._tolerance,
            buffers=self._memory,
        )

    def _plain(
        self,
        hidden_NH: Tensor,
        labels_N: Tensor,
        losses: Sequence[Loss],
        weights: Sequence[float],
        signal: TeacherSignal | None,
    ) -> tuple[Tensor, Tensor]:
        view = StudentView(labels_N, hidden_NH, self._head)
        terms = [loss(view, signal if loss.needs_signal else None) for loss in losses]
        for loss, term in zip(losses, terms, strict=True):
            assert term.count == loss.count_of(_size(view, signal)), f"{loss} dropped rows"
        sums = torch.stack([term.sum.float() for term in terms])
        return (sums * sums.new_tensor(weights)).sum(), sums

    def _head(self, hidden_NH: Tensor) -> Tensor:
        return self._vocabulary.of(self._student.head(hidden_NH))


def why_plain(student: LoadedModel, losses: Sequence[Loss], vocabulary: Vocabulary) -> str | None:
    """What keeps head and losses from running in one pass; None if nothing does."""
    for loss in losses:
        if not loss.fused:
            return f"{type(loss).__name__} has no fused form"
    if vocabulary.columns is not None:
        return "the ids of the shared tokens have gaps"
    return why_not_linear(student)


def _check_filter(student: LoadedModel, why_plain: str | None) -> None:
    head = student.base.get_output_embeddings()
    reason = why_plain
    if reason is None and not getattr(head, "base_layer", head).weight.requires_grad:
        reason = "the head's own weights are not trained"
    if reason is not None:
        raise UsageError(
            f"no gradient of the head's weights can be filtered: {reason}",
            where="training.head_gradient_tolerance",
            mend="set it to null",
        )


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
