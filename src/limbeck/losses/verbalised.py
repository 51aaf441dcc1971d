"""Verbalised layer-wise interaction: sum over target layers i of KL(q_c(i) || p_i), T = 1.

p_i is what the student's target layer i says through its verbaliser and the student's head, q_j
what the teacher's target layer j says through its own; `losses/matching.py` has how c(i) is chosen
from the divergences of all j, once for every micro-batch, on the first rank for all. Verbalisers of
the student are trained with it, those of the teacher are not; both come out of a first stage
(`training/verbalising.py`). The divergence of the models' last distributions, which the paper adds,
is `kind: divergence` beside this loss; its last stage, plain cross-entropy on all parameters, is a
phase of the recipe (`phases`), which leaves the verbalisers behind and merges the adapter.

Direction: forward KL, or cross-entropy with the teacher's likeliest token (`measure: ce`).
Reduction: sum over target layers, sum over the N supervised rows.

Source: Lee et al. 2024, "VLsI", arXiv 2412.01822, section 3.2. A patent application
(US 2026/0141690 A1) covers the method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from limbeck.errors import UsageError
from limbeck.losses.chunks import row_chunks, summed
from limbeck.losses.feature_loss import FeatureLoss, Pair
from limbeck.losses.matching import Matching, TemperatureRule, choose, temperature_of, window
from limbeck.losses.targets import Targets, targets
from limbeck.recipe.sections import Training
from limbeck.records import Features, LossTerm, ModelShape, StudentView, Tap

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.losses.verbal import Verbalisers

STAGE_ONE = Training(steps=200, learning_rate=1e-3)


class Verbalised(FeatureLoss):
    """Draws what the student's layers say to what the teacher's layers say."""

    needs_verbalisers: ClassVar[bool] = True

    kind: Literal["verbalised"] = "verbalised"
    student_layers: Targets = Field(4, description="every so many-th, or numbers from 0")
    teacher_layers: Targets = Field(4, description="every so many-th, or numbers from 0")
    init: Literal["residual_zero", "random", "logit_lens"] = Field(
        "residual_zero",
        description="of verbalisers: from the logit lens, from random numbers, or the logit lens"
        " itself without any training before",
    )
    verbalisers: Training = Field(STAGE_ONE, description="how they are trained in the first stage")
    matching: Matching = Field("multinomial", description="how a teacher's layer is chosen")
    search_range: bool = Field(True, description="leave room for the later layers")
    order: bool = Field(True, description="chosen layers increase; needs search_range")
    adaptive_temperature: bool = Field(True, description="of multinomial; else 1")
    temperature_rule: TemperatureRule = Field(
        "inverse_range", description="T = scale / range of k, or scale * range: both readings"
    )
    scale: float = Field(1.0, gt=0, description="of the adaptive temperature")
    measure: Literal["kl", "ce"] = Field("kl", description="ce: with the teacher's likeliest token")

    @model_validator(mode="after")
    def _order_has_room(self) -> Verbalised:
        if self.order and not self.search_range:
            raise ValueError("order needs search_range: without it later layers may have no choice")
        return self

    def student_taps(self, student: ModelShape, teacher: ModelShape) -> list[Tap]:
        """The student's target layers."""
        self._check(student, teacher)
        return [Tap("hidden", i) for i in targets(self.student_layers, student.layers)]

    def teacher_taps(self, student: ModelShape, teacher: ModelShape) -> list[Tap]:
        """The teacher's target layers."""
        return [Tap("hidden", j) for j in targets(self.teacher_layers, teacher.layers)]

    def _check(self, student: ModelShape, teacher: ModelShape) -> None:
        own = targets(self.student_layers, student.layers)
        theirs = targets(self.teacher_layers, teacher.layers)
        if len(own) > len(theirs):
            raise UsageError(
                f"the student has {len(own)} target layers and the teacher {len(theirs)}",
                where="losses: verbalised",
                mend="give the teacher at least as many",
            )

    def compare(
        self,
        student: StudentView,
        teacher: Features,
        pairs: Sequence[Pair],
        projector: nn.Module | None,
    ) -> LossTerm:
        """As the head of this file says; the choices are counted in the verbalisers."""
        import torch

        from limbeck.losses.verbal import Verbalisers

        assert isinstance(projector, Verbalisers), "the training stage reads them"
        own = [torch.cat(found) for found in student.features.tensors.values()]
        theirs = [torch.cat(found) for found in teacher.tensors.values()]
        chosen = self._choices(student, own, theirs, projector)
        projector.note(chosen)
        rows, vocabulary = len(student.labels_N), projector.vocabulary
        total = student.hidden_NH.new_zeros((), dtype=torch.float32)
        for layer, at in enumerate(chosen):

            def values_of(chunk: slice, layer: int = layer, at: int = at) -> Tensor:
                log_p = projector.student_says(student, own, layer, chunk)
                log_q = projector.teacher_says(theirs, at, chunk)
                if self.measure == "ce":
                    return -log_p.gather(-1, log_q.argmax(-1, keepdim=True)).squeeze(-1)
                return (log_q.exp() * (log_q - log_p)).sum(-1)

            total = total + summed(values_of, rows, vocabulary)
        return LossTerm(total, rows)

    def _choices(
        self,
        student: StudentView,
        own: Sequence[Tensor],
        theirs: Sequence[Tensor],
        projector: Verbalisers,
    ) -> list[int]:
        """A target layer of the teacher for each of the student's."""
        import torch
        from torch import distributed

        k = divergences(student, own, theirs, projector)
        chosen: list[int] = []
        lowest = 0
        for layer in range(len(own)):
            found = window(
                layer,
                lowest,
                len(own),
                len(theirs),
                search_range=self.search_range,
                order=self.order,
            )
            k_J = k[layer, found.start : found.stop]
            adaptive = self.adaptive_temperature
            chosen.append(
                choose(
                    k_J,
                    layer,
                    len(own),
                    len(theirs),
                    self.matching,
                    first=found.start,
                    temperature=temperature_of(k_J, self.temperature_rule, self.scale)
                    if adaptive
                    else 1.0,
                )
            )
            lowest = chosen[-1] + 1
        if distributed.is_available() and distributed.is_initialized():
            shared = torch.tensor(chosen, device=own[0].device)
            distributed.broadcast(shared, 0)
            chosen = [int(at) for at in shared]
        return chosen


def divergences(
    student: StudentView, own: Sequence[Tensor], theirs: Sequence[Tensor], projector: Verbalisers
) -> Tensor:
    """Mean over rows of KL(q_j || p_i) for every i and j, without gradient, on the CPU.

    Few rows at a time, each layer's distribution once: sum q log q minus one product of all q with
    all log p.
    """
    import torch

    rows, layers = len(student.labels_N), len(own) + len(theirs)
    total = torch.zeros(len(own), len(theirs), dtype=torch.float64)
    with torch.no_grad():
        for chunk in row_chunks(rows, projector.vocabulary * layers):
            log_p = torch.stack(
                [projector.student_says(student, own, i, chunk).flatten() for i in range(len(own))]
            )
            log_q = torch.stack(
                [projector.teacher_says(theirs, j, chunk).flatten() for j in range(len(theirs))]
            )
            q = log_q.exp()
            total += ((q * log_q).sum(-1)[None] - log_p @ q.T).cpu().double()
    return (total / max(1, rows)).float()
