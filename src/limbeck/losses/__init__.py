"""Losses, one a file; this module holds what they share.

A loss gets the student's view of N supervised rows and the teacher's signal on the same rows, and
returns a sum and a count. It never masks, moves, averages or divides.

Every term has a weight of its own. Where another system has one `alpha` for two terms:

    alpha weights the hard loss   cross_entropy weight: alpha       divergence weight: 1 - alpha
    alpha weights the soft loss   cross_entropy weight: 1 - alpha   divergence weight: alpha
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from limbeck.recipe.component import Component
from limbeck.records import AnswerSize, LossTerm, StudentView, TeacherSignal

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.losses.block import Block


class Loss(Component):
    """Base of every loss: `weight` times its sum over rows enters the step's objective."""

    needs_signal: ClassVar[bool] = False
    """Whether it reads the teacher's distributions."""
    crosses_tokenizers: ClassVar[bool] = False
    """Whether it also takes a teacher with another tokenizer (`records.Unaligned`)."""

    reads_features: ClassVar[bool] = False
    """Whether it compares inner states (`losses.feature_loss`) instead of distributions."""

    fused: ClassVar[bool] = False
    """Whether it has `add_gradient`. Where all losses do, head and losses run in one pass."""

    weight: float = Field(1.0, ge=0)
    target: Literal["teacher", "gold", "student"] = Field(
        "teacher",
        description="whose answer the rows are: the labelled one, the first reference, or what the"
        " student itself writes (on-policy; needs label.signal: live)",
    )

    def __call__(self, student: StudentView, teacher: TeacherSignal | None) -> LossTerm:
        """Sum over the N rows, unweighted, and N (or what `count_of` counts)."""
        raise NotImplementedError

    def count_of(self, answers: AnswerSize) -> int:
        """What these answers add to the number that the sum is divided by.

        Known before any model runs, and additive over answers: the loop divides by the whole
        step's, over all micro-batches and ranks.
        """
        return answers.tokens

    def add_gradient(self, block: Block, weight: float) -> Tensor:
        """The value of every row [N]; adds `weight` times their sum's gradient to the block.

        What `__call__` says, with the gradient in closed form; only for losses that look at
        nothing of the student but its logits.
        """
        raise NotImplementedError
