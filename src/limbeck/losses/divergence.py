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

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from limbeck.errors import UsageError
from limbeck.losses import Loss
from limbeck.losses.functional import Direction, divergence_rows
from limbeck.records import LossTerm, StudentView, TeacherSignal


class Divergence(Loss):
    """Pulls the student's distribution of every answer token towards the teacher's.

    `forward` makes the student cover all that the teacher finds likely, `reverse` lets it settle
    on a part; `jsd` and the skewed ones lie between and keep gradients bounded where one model is
    certain and the other is not; `total_variation` is bounded by 1 a token.
    """

    needs_signal: ClassVar[bool] = True

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
            raise UsageError(
                "divergence needs the teacher's distributions",
                mend="set label.signal to top_k, hidden or live",
            )
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
