"""Divergence D(p, q) between the teacher's p and the student's q, T^2 sum_v d(p_v, q_v).

Both are softmax(logits / T) over the shared vocabulary. Direction: an option, formulas in
`limbeck.losses.functional`. Reduction: sum over V, summed over the N supervised rows.

Where the parameters reach their limits, another direction is meant:

    option         limit   per unit of     becomes
    jsd            beta->0   beta          forward, KL(p || q)
    jsd            beta->1   1 - beta      reverse, KL(q || p)
    skew_forward   skew->0   -             forward, KL(p || q)
    skew_reverse   skew->0   -             reverse, KL(q || p)

(JSD itself goes to 0 at both ends, in proportion to the quantity in the third column.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from limbeck.errors import UsageError
from limbeck.losses import Loss
from limbeck.losses.block import FAR_BELOW, softmax_and_log_sum
from limbeck.losses.buckets import RULED_OUT, teacher_buckets
from limbeck.losses.directions import Direction, value_and_slope
from limbeck.losses.functional import divergence_rows, same_vocabulary
from limbeck.records import LossTerm, StudentView, TeacherSignal, TopK

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.losses.block import Block


class Divergence(Loss):
    """Pulls the student's distribution of every answer token towards the teacher's.

    `forward` makes the student cover all that the teacher finds likely, `reverse` lets it settle
    on a part; `jsd` and the skewed ones lie between and keep gradients bounded where one model is
    certain and the other is not; `total_variation` is bounded by 1 a token.
    """

    needs_signal: ClassVar[bool] = True
    fused: ClassVar[bool] = True

    kind: Literal["divergence"] = "divergence"
    direction: Direction = Field("forward", description="which divergence")
    temperature: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="divides both models' logits"
    )
    beta: float = Field(0.5, gt=0, lt=1, description="jsd: the teacher's share of the mixture")
    skew: float = Field(0.1, gt=0, lt=1, description="skew_*: share of the first in the second")
    scale_by_temperature_squared: bool = Field(
        True, description="multiply by T^2, so that gradients keep their size"
    )

    @model_validator(mode="after")
    def _options_are_read(self) -> Divergence:
        fields = type(self).model_fields
        for name, readers in (("beta", ("jsd",)), ("skew", ("skew_forward", "skew_reverse"))):
            if self.direction not in readers and getattr(self, name) != fields[name].default:
                raise UsageError(
                    f"direction {self.direction} does not read {name}",
                    mend=f"remove {name}, or choose direction {' or '.join(readers)}",
                )
        return self

    def __call__(self, student: StudentView, teacher: TeacherSignal | None) -> LossTerm:
        """Sum over the N rows of the scaled divergence, and N."""
        if teacher is None:
            raise _no_signal()
        values_N = divergence_rows(
            student.logits_NV,
            teacher,
            self.direction,
            self.temperature,
            self.beta,
            self.skew,
            self.scale_by_temperature_squared,
        )
        return LossTerm(values_N.sum(), values_N.shape[0])

    def add_gradient(self, block: Block, weight: float) -> Tensor:
        """The scaled divergence of every row; for the gradient see `limbeck.losses.directions`."""
        if block.teacher is None:
            raise _no_signal()
        square = self.temperature**2 if self.scale_by_temperature_squared else 1.0
        # The slope is by log q, which moves with logits / T.
        factor = weight * square / self.temperature
        if isinstance(block.teacher, TopK):
            return self._of_buckets(block, block.teacher, factor) * square
        return self._of_columns(block, block.teacher.logits_NV, factor) * square

    def _of_buckets(self, block: Block, teacher: TopK, factor: float) -> Tensor:
        log_q = block.at(self.temperature).log_q
        log_p = teacher_buckets(teacher, self.temperature, log_q)
        q = log_q.exp()
        values_N, slope = self._value_and_slope(log_p.exp(), q, lambda: log_p - log_q)
        gradient = slope - q * slope.sum(-1, keepdim=True)
        block.add_buckets(self.temperature, gradient * factor)
        return values_N

    def _of_columns(self, block: Block, teacher_NV: Tensor, factor: float) -> Tensor:
        """Compares whole distributions."""
        import torch

        same_vocabulary(teacher_NV, block.exact_NV)
        student = block.at(self.temperature)
        # -inf would make 0 * inf; what it stands for is put in below.
        exact_NV = teacher_NV.detach().to(block.exact_NV.dtype).clamp(min=FAR_BELOW)
        p_NV, log_sum_N1 = softmax_and_log_sum(exact_NV, self.temperature)

        def log_ratio_NV() -> Tensor:
            # Equal logits give exactly 0, whatever their size.
            inverse = 1 / self.temperature
            largest_N1 = exact_NV.amax(-1, keepdim=True)
            if self.direction != "forward":  # which multiplies it by p = 0
                ruled_out = torch.eq(exact_NV, FAR_BELOW, out=torch.empty_like(exact_NV))
                stand_in_N1 = largest_N1 + (RULED_OUT + log_sum_N1) * self.temperature
                exact_NV.lerp_(stand_in_N1.expand_as(exact_NV), ruled_out)
            found_NV = exact_NV - block.exact_NV
            if self.temperature != 1:
                found_NV *= inverse
            apart_N1 = largest_N1 - block.largest_N1
            return found_NV.sub_(apart_N1 * inverse + (log_sum_N1 - student.log_sum_N1))

        values_N, slope_NV = self._value_and_slope(p_NV, student.share_NV, log_ratio_NV)
        block.add_distribution(self.temperature, slope_NV.sum(-1, keepdim=True) * -factor)
        block.add_columns(slope_NV.mul_(factor))
        return values_N

    def _value_and_slope(
        self, p: Tensor, q: Tensor, log_ratio: Callable[[], Tensor]
    ) -> tuple[Tensor, Tensor]:
        return value_and_slope(p, q, log_ratio, self.direction, self.beta, self.skew)


def _no_signal() -> UsageError:
    return UsageError(
        "divergence needs the teacher's distributions",
        mend="set label.signal to top_k, hidden or live",
    )
