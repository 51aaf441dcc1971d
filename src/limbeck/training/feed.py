"""Micro-batches in the order of the plan, each at the moment at which the model wants it."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence

from limbeck.training.batches import MicroBatch
from limbeck.training.examples import Collated, EncodedExamples
from limbeck.training.own_answers import TARGET


class Feed:
    """Hands out collated micro-batches, and counts how long the model waited.

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
        self._waited, self._since = 0.0, time.monotonic()
        self._encoded, self._micro_batches, self._steps = encoded, micro_batches, steps
        self._workers, self._pin_memory = workers, pin_memory
        self._stream: Generator[Collated] | None = None
        self._stream_at = -1

    def get(self, step: int, number: int, micro_batch: MicroBatch) -> Collated:
        """The micro-batch of that number in a step; steps are asked for in turn, or started anew.

        Raises:
            DataError: a sample cannot be prepared.
        """
        started = time.monotonic()
        if self._stream is None or (number == 0 and self._stream_at != step):
            self.close()
            self._stream = self._encoded.stream(
                self._known(step), self._workers, pin_memory=self._pin_memory
            )
        # Whoever leaves the step half-way (out of memory) makes the next try start a new stream.
        self._stream_at = step + 1 if number == len(self._micro_batches(step)) - 1 else -1
        if micro_batch.target == TARGET:  # written just now, and in this process
            found = self._encoded.together(micro_batch)
        else:
            found = next(self._stream)
        self._waited += time.monotonic() - started
        return found

    def share_waited(self) -> float:
        """Of the time since this was last asked, what the model waited for its data."""
        now = time.monotonic()
        share = self._waited / max(now - self._since, 1e-9)
        self._waited, self._since = 0.0, now
        return share

    def close(self) -> None:
        """End the worker processes."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _known(self, step: int) -> Iterator[MicroBatch]:
        """From a step to the end, those whose answers are not yet to be written."""
        for later in range(step, self._steps):
            yield from (m for m in self._micro_batches(later) if m.target != TARGET)
