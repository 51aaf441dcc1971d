"""The teacher's distributions from a model that runs while the student trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from limbeck.errors import TeacherError
from limbeck.records import Dense

if TYPE_CHECKING:
    from limbeck.records import AlignedSignal

SignalOf = Callable[[Sequence[str], Sequence[Sequence[int]]], "AlignedSignal"]


class LiveSignal:
    """A `SignalSource` that asks a live teacher.

    Args:
        signal_of: from sample ids and their answers to the teacher's logits [N, V] over the shared
            vocabulary, or its likeliest tokens, at the N positions that predict the answers'
            tokens. Prompt, images and pixel budget are the teacher's own: the callable looks the
            samples up and asks the teacher about them.
    """

    def __init__(self, signal_of: SignalOf) -> None:
        self._signal_of = signal_of

    def signal(self, sample_ids: Sequence[str], answers: Sequence[Sequence[int]]) -> AlignedSignal:
        """The teacher's distributions at every position of these answers.

        Raises:
            TeacherError: the teacher returned another number of rows than the answers have.
        """
        import torch

        with torch.no_grad():
            signal = self._signal_of(sample_ids, answers)
        if isinstance(signal, Dense) and signal.logits_NV.is_inference():
            signal = Dense(signal.logits_NV.clone())  # autograd may not save an inference tensor
        expected = sum(len(answer) for answer in answers)
        if len(signal) != expected:
            raise TeacherError(
                f"the live teacher returned {len(signal)} rows for {expected} answer tokens",
                where=", ".join(sample_ids),
                mend="encode the same answer, with its end token, for teacher and student",
            )
        return signal


def joined(signals: Sequence[AlignedSignal]) -> AlignedSignal:
    """The rows of several answers' signals one after the other.

    Raises:
        UsageError: they do not go together.
    """
    import torch

    from limbeck.signals.top_k import collate

    dense = [signal.logits_NV for signal in signals if isinstance(signal, Dense)]
    if dense:
        assert len(dense) == len(signals), "one teacher gives one kind of signal"
        return Dense(torch.cat(dense))
    return collate([signal for signal in signals if not isinstance(signal, Dense)])
