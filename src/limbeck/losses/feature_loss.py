"""What losses on inner states share: which taps they read, and the projector between two widths.

A feature loss gets the `Features` of student and teacher on the same samples. Where widths differ
the student's states go through a learned linear map first. That map belongs to training: it is
saved with checkpoints, and the finished student has nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from limbeck.errors import UsageError
from limbeck.losses import Loss
from limbeck.records import Features, LossTerm, ModelShape, StudentView, Tap, TeacherSignal

if TYPE_CHECKING:
    from torch import Tensor, nn

Pair = tuple[Tap, Tap]
"""A tap of the student and the tap of the teacher that it learns from."""


class FeatureLoss(Loss):
    """Base of the losses on inner states; they do not look at the teacher's distributions."""

    reads_features: ClassVar[bool] = True
    compares: ClassVar[bool] = True
    """Whether it needs the teacher's inner states beside the student's."""
    needs_verbalisers: ClassVar[bool] = False
    """Whether its projector is made by the training stage: verbalisers (`models/verbaliser.py`)."""

    def pairs(self, student: ModelShape, teacher: ModelShape) -> list[Pair]:
        """Which taps are compared with which; empty where that is found while training.

        Raises:
            UsageError: a layer that one of the models does not have.
        """
        return []

    def student_taps(self, student: ModelShape, teacher: ModelShape) -> list[Tap]:
        """What is read of the student."""
        return [own for own, _ in self.pairs(student, teacher)]

    def teacher_taps(self, student: ModelShape, teacher: ModelShape) -> list[Tap]:
        """What is read of the teacher."""
        return [theirs for _, theirs in self.pairs(student, teacher)]

    def projector(self, student: ModelShape, teacher: ModelShape) -> nn.Module | None:
        """What maps the student's states to the teacher's width; None where nothing has to."""
        return None

    def compare(
        self,
        student: StudentView,
        teacher: Features,
        pairs: Sequence[Pair],
        projector: nn.Module | None,
    ) -> LossTerm:
        """Sum over what `count_of` counts, unweighted, and that count."""
        raise NotImplementedError

    def __call__(self, student: StudentView, teacher: TeacherSignal | None) -> LossTerm:
        """Not of this kind: see `compare`."""
        raise UsageError(f"{type(self).__name__} compares inner states, not distributions")


Layers = Literal["last", "every"] | tuple[tuple[int, int], ...]
LAYERS: Any = Field(
    default="last",
    description="pairs of layers [student, teacher], from 0, negative from the end; last: the last"
    " of both; every: each of the student's with the teacher's at the same relative depth",
)


def layer_pairs(layers: Layers, student: int, teacher: int) -> list[tuple[int, int]]:
    """Numbers of paired layers, from 0.

    Args:
        layers: a rule or a list.
        student: how many layers the student has.
        teacher: how many the teacher has.

    Raises:
        UsageError: a layer that is not there.
    """
    if layers == "last":
        return [(student - 1, teacher - 1)]
    if layers == "every":
        # The end of a layer is at the same share of the depth: (i + 1) / student.
        return [(i, round((i + 1) * teacher / student) - 1) for i in range(student)]
    found: list[tuple[int, int]] = []
    for own, theirs in layers:
        for number, total, whose in ((own, student, "student"), (theirs, teacher, "teacher")):
            if not -total <= number < total:
                raise UsageError(
                    f"the {whose} has no layer {number}",
                    where="losses.layers",
                    mend=f"its {total} layers are numbered from 0 to {total - 1}",
                )
        found.append((own % student, theirs % teacher))
    return found


def linear_projectors(widths: Sequence[tuple[int, int]], always: bool) -> nn.Module | None:
    """A linear map for each pair of widths that differ, or for all; None if none is needed."""
    from torch import nn

    if not always and all(own == theirs for own, theirs in widths):
        return None
    maps = [
        nn.Linear(own, theirs, bias=False) if always or own != theirs else nn.Identity()
        for own, theirs in widths
    ]
    return nn.ModuleList(maps)


def projected(projector: nn.Module | None, number: int, state: Tensor) -> Tensor:
    """The student's state in the teacher's width."""
    if projector is None:
        return state
    return projector[number](state)  # type: ignore[index]


def exact(state: Tensor) -> Tensor:
    """In float32; float64 stays."""
    import torch

    return state if state.dtype == torch.float64 else state.float()


def row_distances(own: Tensor, theirs: Tensor, measure: Literal["mse", "cosine"]) -> Tensor:
    """One number a row: mean squared difference over the width, or 1 - cosine."""
    import torch

    own, theirs = exact(own), exact(theirs.detach())
    if measure == "mse":
        return (own - theirs).square().mean(-1)
    return 1 - torch.cosine_similarity(own, theirs, dim=-1)


def require_rows(own: Tensor, theirs: Tensor, kind: str) -> None:
    """Refuse states of samples that have another number of rows.

    Raises:
        UsageError: with both numbers.
    """
    if own.shape[0] != theirs.shape[0]:
        raise UsageError(
            f"the student has {own.shape[0]} rows and the teacher {theirs.shape[0]}",
            where=f"losses: {kind}",
            mend="answers must be cut into the same tokens; use models of one tokenizer",
        )
