"""The teacher's distributions from a model that runs while the student trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from limbeck.errors import TeacherError
from limbeck.records import Dense

if TYPE_CHECKING:
    from torch import Tensor

LogitsOf = Callable[[Sequence[str], Sequence[Sequence[int]]], "Tensor"]


class LiveSignal:
    """A `SignalSource` that asks a live teacher.

    Args:
        logits_of: from sample ids and their answers to the teacher's logits [N, V] over the shared
            vocabulary, at the N positions that predict the answers' tokens. Prompt, images and
            pixel budget are the teacher's own: the callable looks the samples up and encodes
            them with the teacher's processor.
    """

    def __init__(self, logits_of: LogitsOf) -> None:
        self._logits_of = logits_of

    def signal(self, sample_ids: Sequence[str], answers: Sequence[Sequence[int]]) -> Dense:
        """The teacher's whole distributions at every position of these answers.

        Raises:
            TeacherError: the teacher returned another number of rows than the answers have.
        """
        import torch

        with torch.no_grad():
            logits_NV = self._logits_of(sample_ids, answers)
        if logits_NV.is_inference():
            logits_NV = logits_NV.clone()  # autograd may not save an inference tensor
        expected = sum(len(answer) for answer in answers)
        if logits_NV.shape[0] != expected:
            raise TeacherError(
                f"the live teacher returned {logits_NV.shape[0]} rows for {expected} answer tokens",
                where=", ".join(sample_ids),
                mend="encode the same answer, with its end token, for teacher and student",
            )
        return Dense(logits_NV)
