"""Micro-batches in the order of the plan, each at the moment at which the model wants it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from limbeck.training.batches import MicroBatch
from limbeck.training.examples import Collated, EncodedExamples
from limbeck.training.own_answers import TARGET


class Feed:
    """Hands out collated micro-batches, and counts the seconds for which the model waited.

    Args:
        encoded: the examples.
        micro_batches: of a step, on this rank; asked again where a step is started anew.
        steps: how many there are.
        workers: processes that prepare ahead.
        pin_memory: for a GPU.
    """

    def __init__(
        self,
        encoded: EncodedExamples,
        micro_batches: Callable[[int], Sequence[MicroBatch]],
        steps: int,
        *,
        workers: int,
        pin_memory: bool,
    ) -> None:
        self.seconds_waited = 0.0
        self._encoded, self._micro_batches, self._steps = encoded, micro_batches, steps
        self._workers, self._pin_memory = workers, pin_memory
        self._stream: Iterator[Collated] = iter(())
        self._stream_at = -1

    def get(self, step: int, number: int, micro_batch: MicroBatch) -> Collated:
        """The micro-batch of that number in a step; steps are asked for in turn, or started anew.

        Raises:
            DataError: a sample cannot be prepared.
        """
        started = time.monotonic()
        if number == 0 and self._stream_at != step:
            self._stream = self._encoded.stream(
                self._known(step), self._workers, pin_memory=self._pin_memory
            )
        # Whoever leaves the step half-way (out of memory) makes the next try start a new stream.
        self._stream_at = step + 1 if number == len(self._micro_batches(step)) - 1 else -1
        if micro_batch.target == TARGET:  # written just now, and in this process
            found = self._encoded.together(micro_batch)
        else:
            found = next(self._stream)
        self.seconds_waited += time.monotonic() - started
        return found

    def _known(self, step: int) -> Iterator[MicroBatch]:
        """From a step to the end, those whose answers are not yet to be written."""
        for later in range(step, self._steps):
            yield from (m for m in self._micro_batches(later) if m.target != TARGET)
