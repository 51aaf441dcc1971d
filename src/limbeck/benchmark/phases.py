"""Where the time to the first token goes: pictures, processor, inputs, vision tower, prefill.

Looking inside means waiting for the device at every boundary, which holds up a GPU; so phases are
measured in generations of their own, of one token, and no latency is taken from these.

    pictures     opened, turned upright, made RGB and brought to the budget
    processor    prompt rendered and tokenised, pixel tensors made
    input        padded, moved to the device, embedded: what is left of the time to the first token
    vision       vision tower and projector
    prefill      from the language model's first layer to the first new token
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from limbeck.benchmark.timing import median, timed_call
from limbeck.errors import UsageError

Raw = TypeVar("Raw")
Prepared = TypeVar("Prepared")

PICTURES, VISION, LANGUAGE = "pictures", "vision", "language"


class Stopwatch:
    """Seconds in the parts of the call under way.

    Args:
        synchronise: waits until the device has done what was asked of it.
        clock: seconds.
    """

    def __init__(
        self,
        synchronise: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.synchronise, self.clock = synchronise, clock
        self.reset()

    def reset(self) -> None:
        """A new call begins."""
        self.seconds: dict[str, float] = {}
        """Of every part that has ended, its runs added up."""
        self.began: dict[str, float] = {}
        """When each part began first."""
        self._running: dict[str, float] = {}

    def begin(self, part: str) -> None:
        """A part begins."""
        self.synchronise()
        self._running[part] = self.clock()
        self.began.setdefault(part, self._running[part])

    def end(self, part: str) -> None:
        """A part ends; it may begin again."""
        self.synchronise()
        spent = self.clock() - self._running.pop(part)
        self.seconds[part] = self.seconds.get(part, 0.0) + spent


@dataclass(frozen=True)
class Phases:
    """Seconds of one batch, from the files of its pictures to its first new token."""

    pictures: float
    processor: float
    input: float
    vision: float
    prefill: float


def measure_phases(
    generate: Callable[[Prepared, Callable[[], None]], int],
    batches: Sequence[Sequence[Raw]],
    *,
    prepare: Callable[[Sequence[Raw]], Prepared],
    watch: Stopwatch,
    repeats: int,
    warmup: int,
) -> list[Phases]:
    """Run the batches `repeats` times, to the first token, and time the parts of each run.

    Args:
        generate: as of `limbeck.benchmark.timing.measure`, for one token.
        batches: what to run, in order.
        prepare: from raw samples to what `generate` takes.
        watch: is told of the parts by the model; pictures and vision begin and end, the language
            model begins.
        repeats: passes over `batches`.
        warmup: generations before the first counted one.

    Raises:
        UsageError: the model does not tell.
    """

    def run(batch: Sequence[Raw]) -> Phases:
        watch.reset()
        started = 0.0

        def prepared(raw: Sequence[Raw]) -> Prepared:
            nonlocal started
            found = prepare(raw)
            watch.synchronise()
            started = watch.clock()
            return found

        call = timed_call(generate, batch, prepared, watch.synchronise, watch.clock)
        seen = watch.seconds
        first_token = started + call.first_token_seconds
        pictures, vision = seen.get(PICTURES, 0.0), seen.get(VISION, 0.0)
        if LANGUAGE not in watch.began:
            raise UsageError("the language model was not seen to begin")
        prefill = first_token - watch.began[LANGUAGE]
        return Phases(
            pictures=pictures,
            processor=call.preprocess_seconds - pictures,
            input=call.first_token_seconds - vision - prefill,
            vision=vision,
            prefill=prefill,
        )

    for index in range(warmup):
        run(batches[index % len(batches)])
    return [run(batch) for _ in range(repeats) for batch in batches]


def phase_quantities(regime: str, found: Sequence[Phases]) -> list[dict[str, Any]]:
    """Each phase's median with its spread; `n` counts batches."""
    return [
        median(regime, f"{name}_ms", "ms", [1000 * getattr(one, name) for one in found])
        for name in Phases.__dataclass_fields__
    ]
