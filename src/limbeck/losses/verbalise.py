"""Every target layer's verbaliser says the answer: mean over layers of -log head(verb_i(h_i))[y].

The first stage of verbalised distillation, run for teacher and student apart with the backbone
frozen: the layers' losses have no parameters in common, so each verbaliser learns on its own.
Direction: none (y is one token). Reduction: mean over target layers, sum over the N supervised
rows.

Source: Lee et al. 2024, "VLsI", arXiv 2412.01822, section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from limbeck.errors import UsageError
from limbeck.losses.chunks import summed
from limbeck.losses.feature_loss import FeatureLoss, Pair
from limbeck.losses.functional import cross_entropy_rows
from limbeck.records import Features, LossTerm, ModelShape, StudentView, Tap

if TYPE_CHECKING:
    from torch import Tensor, nn

Targets = int | tuple[int, ...]


class Verbalise(FeatureLoss):
    """Trains the verbalisers of one model: the first stage of `kind: verbalised`."""

    compares: ClassVar[bool] = False
    needs_verbalisers: ClassVar[bool] = True

    kind: Literal["verbalise"] = "verbalise"
    layers: Targets = Field(4, description="every so many-th layer, or their numbers from 0")

    def student_taps(self, student: ModelShape, teacher: ModelShape) -> list[Tap]:
        """The target layers."""
        return [Tap("hidden", layer) for layer in targets(self.layers, student.layers)]

    def teacher_taps(self, student: ModelShape, teacher: ModelShape) -> list[Tap]:
        """None: it has no teacher."""
        return []

    def compare(
        self,
        student: StudentView,
        teacher: Features,
        pairs: Sequence[Pair],
        projector: nn.Module | None,
    ) -> LossTerm:
        """Sum over rows of the mean over layers, and the number of rows."""
        import torch

        values = layer_values(student, projector)
        return LossTerm(torch.stack(values).mean(), len(student.labels_N))


def layer_values(student: StudentView, verbalisers: nn.Module | None) -> list[Tensor]:
    """For each target layer in turn, the sum over rows of -log p(y)."""
    import torch

    if verbalisers is None:
        raise UsageError(
            "is the first stage of kind: verbalised, and cannot stand alone",
            where="losses: verbalise",
        )
    states = [torch.cat(found) for found in student.features.tensors.values()]
    labels_N = student.labels_N
    vocabulary = student.head(student.hidden_NH[:1]).shape[-1]
    found: list[Tensor] = []
    for state_NH, verbaliser in zip(states, verbalisers.children(), strict=True):

        def values_of(
            rows: slice, state_NH: Tensor = state_NH, say: nn.Module = verbaliser
        ) -> Tensor:
            return cross_entropy_rows(student.head(say(state_NH[rows])), labels_N[rows])

        found.append(summed(values_of, len(labels_N), vocabulary))
    return found


def targets(wanted: Targets, total: int) -> list[int]:
    """Numbers of target layers: every so many-th (every 4th of 28 is 2, 6, ... 26), or a list.

    Raises:
        UsageError: a layer that is not there, or none.
    """
    found = list(range(wanted // 2, total, wanted)) if isinstance(wanted, int) else list(wanted)
    if not found or found[-1] >= total or found != sorted(set(found)):
        raise UsageError(
            f"{wanted} does not name layers of a model that has {total}",
            where="losses: target layers",
            mend=f"list increasing numbers from 0 to {total - 1}, or give a smaller step",
        )
    return found
