"""The student's forward pass with all losses: one module, for DDP and autocast to wrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.losses import Loss
from limbeck.losses.feature_loss import FeatureLoss, Pair
from limbeck.losses.fused import fused_sums
from limbeck.models.linear_head import linear_head, why_not_linear
from limbeck.models.taps import shape_of, tapped
from limbeck.records import (
    IGNORED,
    AnswerSize,
    Features,
    ModelShape,
    StudentView,
    TeacherSignal,
    Unaligned,
)

if TYPE_CHECKING:
    from limbeck.models.load import LoadedModel
    from limbeck.models.vocabulary import Vocabulary


class Objective(nn.Module):
    """Runs the student on a micro-batch and returns what its losses say of the supervised rows.

    The language head runs on those rows only. Where every loss has a fused form and the head is
    linear, head and losses run in one pass that never holds all logits; `why_plain` says what
    stands against it, and then the losses are computed from the logits. Losses on inner states read
    them by taps; their projectors are trained with the student and are no part of it.

    Args:
        student: is trained.
        losses: the terms.
        vocabulary: that student and teacher share.
        teacher_shape: of the teacher whose inner states are compared, where some loss does.
    """

    def __init__(
        self,
        student: LoadedModel,
        losses: Sequence[Loss],
        vocabulary: Vocabulary,
        teacher_shape: ModelShape | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = student.model
        self._student, self._losses, self._vocabulary = student, tuple(losses), vocabulary
        by_logits = [loss for loss in losses if not loss.reads_features]
        self.why_plain = why_plain(student, by_logits, vocabulary)
        self._inner = inner_losses(student, losses, teacher_shape)
        projectors = {str(at): p for at, (_, _, p) in self._inner.items() if p is not None}
        self.projectors = nn.ModuleDict(projectors).to(student.device)

    def forward(
        self,
        inputs: dict[str, Tensor],
        targets_BL: Tensor,
        target: str,
        signal: TeacherSignal | None,
        weights: Sequence[float],
        features: Features | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The losses' sums times `weights`, added up, and the sums [number of losses] themselves.

        Only the first has a graph. Losses of another target than the micro-batch's count 0.
        """
        rows_BL = targets_BL != IGNORED
        inner = {at: own for at, own in self._inner.items() if own[0].target == target}
        taps = [student_tap for _, pairs, _ in inner.values() for student_tap, _ in pairs]
        with tapped(self._student, taps) as seen:
            hidden_NH = self._student.hidden_states(inputs)[rows_BL]
        labels_N = self._vocabulary.columns_of(targets_BL[rows_BL])
        own = [
            number
            for number, loss in enumerate(self._losses)
            if loss.target == target and not loss.reads_features
        ]
        sums = torch.zeros(len(self._losses), device=hidden_NH.device)
        totals: list[Tensor] = []
        if own:
            losses, own_weights = [self._losses[i] for i in own], [weights[i] for i in own]
            terms = self._plain if self.why_plain else self._fused
            total, own_sums = terms(hidden_NH, labels_N, losses, own_weights, signal)
            sums[own] = own_sums.detach().float()
            totals.append(total)
        if inner:
            assert features is not None, "the loop asks for what losses on inner states need"
            states = seen.features(inputs, targets_BL)
            view = StudentView(labels_N, hidden_NH, self._head, states)
            projectors = dict(self.projectors.items())
            for at, (loss, pairs, _) in inner.items():
                projector = projectors.get(str(at))
                term = loss.compare(view, features, pairs, projector)
                sums[at] = term.sum.detach().float()
                totals.append(term.sum * weights[at])
        return torch.stack([total.float() for total in totals]).sum(), sums

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
        return fused_sums(head, labels_N, losses, weights, signal)

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


Inner = tuple[FeatureLoss, list[Pair], nn.Module | None]
"""A loss on inner states, the taps that it compares, and its projector."""


def inner_losses(
    student: LoadedModel, losses: Sequence[Loss], teacher_shape: ModelShape | None
) -> dict[int, Inner]:
    """The losses on inner states by their number.

    Raises:
        UsageError: they want layers that are not there, or attention weights that are not kept.
    """
    found: dict[int, Inner] = {}
    for number, loss in enumerate(losses):
        if isinstance(loss, FeatureLoss):
            assert teacher_shape is not None, "a loss on inner states has a source of them"
            own = shape_of(student.base.config)
            pairs = loss.pairs(own, teacher_shape)
            found[number] = loss, pairs, loss.projector(own, teacher_shape)
    taps = [tap for _, pairs, _ in found.values() for tap, _ in pairs]
    with tapped(student, taps):  # refuses what cannot be read before anything is trained
        return found


def why_plain(student: LoadedModel, losses: Sequence[Loss], vocabulary: Vocabulary) -> str | None:
    """What keeps head and losses from running in one pass; None if nothing does."""
    for loss in losses:
        if not loss.fused:
            return f"{type(loss).__name__} has no fused form"
    if vocabulary.columns is not None:
        return "the ids of the shared tokens have gaps"
    return why_not_linear(student)


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


def features_on(features: Features, device: torch.device) -> Features:
    """The same inner states on a device."""
    tensors = {
        tap: tuple(state.to(device) for state in states) for tap, states in features.tensors.items()
    }
    return Features(tensors, features.grids)


def _size(view: StudentView, signal: TeacherSignal | None) -> AnswerSize:
    tokens = len(view.labels_N)
    return AnswerSize(tokens, signal.spans if isinstance(signal, Unaligned) else tokens)
