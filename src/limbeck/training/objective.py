"""The student's forward pass with all losses: one module, for DDP and autocast to wrap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import UsageError
from limbeck.losses import Loss
from limbeck.losses.feature_loss import FeatureLoss, Pair
from limbeck.losses.fused import fused_sums
from limbeck.losses.fused.memory import Buffers
from limbeck.losses.verbal import Verbalisers
from limbeck.models.linear_head import linear_head, why_not_linear
from limbeck.models.taps import shape_of, tapped
from limbeck.records import (
    IGNORED,
    AnswerSize,
    Features,
    ModelShape,
    StudentView,
    Tap,
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
        head_gradient_tolerance: filters the gradient of the head's weights; where there is none, or
            not in one pass, that is a UsageError.
        teacher_shape: of the teacher whose inner states are compared, where some loss does.
        verbalisers: of the losses that need them.
    """

    def __init__(
        self,
        student: LoadedModel,
        losses: Sequence[Loss],
        vocabulary: Vocabulary,
        head_gradient_tolerance: float | None = None,
        teacher_shape: ModelShape | None = None,
        verbalisers: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.model: Any = student.model
        self._student, self._losses, self._vocabulary = student, tuple(losses), vocabulary
        self._tolerance, self._memory = head_gradient_tolerance, Buffers()
        by_logits = [loss for loss in losses if not loss.reads_features]
        self.why_plain = why_plain(student, by_logits, vocabulary)
        if head_gradient_tolerance is not None:
            _check_filter(student, self.why_plain)
        self._inner = inner_losses(student, losses, teacher_shape, verbalisers)
        projectors = {str(at): i.projector for at, i in self._inner.items() if i.projector}
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
        inner = {at: i for at, i in self._inner.items() if i.loss.target == target}
        taps = [tap for i in inner.values() for tap in i.own_taps]
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
            states = seen.features(inputs, targets_BL)
            theirs = features or Features({}, ())
            for at, i in inner.items():
                view = StudentView(labels_N, hidden_NH, self._head, states.only(i.own_taps))
                term = i.loss.compare(view, theirs.only(i.their_taps), i.pairs, i.projector)
                sums[at] = term.sum.detach().float()
                totals.append(term.sum * weights[at])
        return torch.stack([total.float() for total in totals]).sum(), sums

    @property
    def matches(self) -> Tensor | None:
        """How often each target layer of the student was given which of the teacher's."""
        for i in self._inner.values():
            if isinstance(i.projector, Verbalisers):
                return i.projector.matches
        return None

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
        # What verbalisers make is in float32, whatever the head is in.
        weight = self._student.base.get_output_embeddings().weight
        exact = hidden_NH.to(weight.dtype) if weight.is_floating_point() else hidden_NH
        return self._vocabulary.of(self._student.head(exact))


@dataclass(frozen=True)
class Inner:
    """A loss on inner states: what it reads of both models, and what is trained with it."""

    loss: FeatureLoss
    own_taps: list[Tap]
    their_taps: list[Tap]
    pairs: list[Pair]
    projector: nn.Module | None


def inner_losses(
    student: LoadedModel,
    losses: Sequence[Loss],
    teacher_shape: ModelShape | None,
    verbalisers: nn.Module | None,
) -> dict[int, Inner]:
    """The losses on inner states by their number.

    Raises:
        UsageError: they want layers that are not there, or attention weights that are not kept.
    """
    found: dict[int, Inner] = {}
    for number, loss in enumerate(losses):
        if isinstance(loss, FeatureLoss):
            assert teacher_shape or not loss.compares, "a loss that compares has a source of states"
            own = shape_of(student.base.config)
            theirs = teacher_shape or own
            projector = verbalisers if loss.needs_verbalisers else loss.projector(own, theirs)
            found[number] = Inner(
                loss,
                loss.student_taps(own, theirs),
                loss.teacher_taps(own, theirs),
                loss.pairs(own, theirs),
                projector,
            )
    # Refuses what cannot be read before anything is trained.
    with tapped(student, [tap for inner in found.values() for tap in inner.own_taps]):
        return found


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


def features_on(features: Features, device: torch.device) -> Features:
    """The same inner states on a device."""
    tensors = {
        tap: tuple(state.to(device) for state in states) for tap, states in features.tensors.items()
    }
    return Features(tensors, features.grids)


def _size(view: StudentView, signal: TeacherSignal | None) -> AnswerSize:
    tokens = len(view.labels_N)
    return AnswerSize(tokens, signal.spans if isinstance(signal, Unaligned) else tokens)
