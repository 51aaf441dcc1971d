"""The timing core: run batches through a model, time each part, name the peak memory.

It knows nothing of transformers or torch: a model is a function that takes a prepared batch and
calls `on_first_token` when the first new token of the batch exists (later calls change nothing).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

Raw = TypeVar("Raw")
Prepared = TypeVar("Prepared")

LOW_PERCENT, HIGH_PERCENT = 5, 95
SPREAD = f"p{LOW_PERCENT}-p{HIGH_PERCENT}"


@dataclass(frozen=True)
class Peak:
    """The most memory of one kind that was in use; `name` is the measurement's."""

    name: str
    kind: str
    bytes: int


class MemoryGauge(Protocol):
    """Something that knows how much memory is in use, and the most since its last reset."""

    kind: str
    method: str

    def settle(self) -> None:
        """Give back what earlier work has freed, so that it is not counted again."""
        ...

    def current_bytes(self) -> int:
        """In use now."""
        ...

    def reset_peak(self) -> None:
        """Start a new measurement window."""
        ...

    def peaks(self) -> list[Peak]:
        """The most in use since `reset_peak`."""
        ...


@dataclass(frozen=True)
class Drawn:
    """Energy that was drawn; `name` begins the measurements' names, `covers` says whose it is."""

    name: str
    covers: str
    joules: float


class EnergyMeter(Protocol):
    """Something that knows how much energy was drawn since it was started."""

    def start(self) -> None:
        """Start a new measurement window."""
        ...

    def stop(self) -> list[Drawn]:
        """What was drawn since then; nothing where the machine does not tell."""
        ...


@dataclass(frozen=True)
class Call:
    """One timed generation of one batch; `new_tokens` is over the whole batch, prompt excluded."""

    samples: int
    new_tokens: int
    preprocess_seconds: float
    first_token_seconds: float
    total_seconds: float

    @property
    def decode_seconds(self) -> float:
        """From the first new token to the last."""
        return self.total_seconds - self.first_token_seconds

    @property
    def decode_tokens(self) -> int:
        """New tokens after each sample's first."""
        return self.new_tokens - self.samples


@dataclass(frozen=True)
class Window:
    """Everything that was counted in one regime: its calls, its peak memory and its energy."""

    calls: tuple[Call, ...]
    peaks: tuple[Peak, ...]
    energy: tuple[Drawn, ...] = ()


def measure(
    generate: Callable[[Prepared, Callable[[], None]], int],
    batches: Sequence[Sequence[Raw]],
    *,
    prepare: Callable[[Sequence[Raw]], Prepared],
    memory: MemoryGauge,
    repeats: int,
    warmup: int,
    energy: EnergyMeter | None = None,
    synchronise: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> Window:
    """Run the batches `repeats` times and time every generation by itself.

    Args:
        generate: takes a prepared batch and a function to call at the first new token; returns
            the count of new tokens of all samples together.
        batches: what to run, in order.
        prepare: from raw samples to what `generate` takes; timed apart.
        memory: its peak is reset after the warm-up.
        repeats: passes over `batches`.
        warmup: generations before the first counted one.
        energy: started after the warm-up; what it counts covers preparation, too.
        synchronise: waits until the device has done what was asked of it.
        clock: seconds.
    """
    memory.settle()
    for index in range(warmup):
        timed_call(generate, batches[index % len(batches)], prepare, synchronise, clock)
    memory.reset_peak()
    if energy is not None:
        energy.start()
    calls = tuple(
        timed_call(generate, batch, prepare, synchronise, clock)
        for _ in range(repeats)
        for batch in batches
    )
    drawn = energy.stop() if energy is not None else []
    return Window(calls, tuple(memory.peaks()), tuple(drawn))


def timed_call(
    generate: Callable[[Prepared, Callable[[], None]], int],
    batch: Sequence[Raw],
    prepare: Callable[[Sequence[Raw]], Prepared],
    synchronise: Callable[[], None],
    clock: Callable[[], float] = time.perf_counter,
) -> Call:
    """Prepare one batch and generate from it; arguments as of `measure`."""
    first: list[float] = []

    def on_first_token() -> None:
        if not first:
            synchronise()
            first.append(clock())

    began = clock()
    prepared = prepare(batch)
    synchronise()
    started = clock()
    new_tokens = generate(prepared, on_first_token)
    synchronise()
    ended = clock()
    assert first, "generate has to call on_first_token"
    return Call(len(batch), new_tokens, started - began, first[0] - started, ended - started)


def quantities(regime: str, window: Window) -> list[dict[str, Any]]:
    """A window's measurements: medians with their spread, rates as total over total.

    `n` counts generations. A rate's value divides all tokens (or samples) by all seconds; its
    spread is that of the single generations. Decoding has no rate where no call went beyond one
    token per sample.
    """
    calls = window.calls
    samples = sum(call.samples for call in calls)
    tokens = sum(call.new_tokens for call in calls)
    seconds = sum(call.total_seconds for call in calls)
    latencies_ms = [1000 * call.total_seconds for call in calls]
    found = [
        median(regime, "latency_ms", "ms", latencies_ms),
        quantity(
            regime, "latency_p95_ms", percentile(latencies_ms, HIGH_PERCENT), "ms", len(calls)
        ),
        median(
            regime, "time_to_first_token_ms", "ms", [1000 * c.first_token_seconds for c in calls]
        ),
        median(regime, "preprocess_ms", "ms", [1000 * c.preprocess_seconds for c in calls]),
        rate(
            regime,
            "throughput_samples_per_second",
            "samples/s",
            samples / seconds,
            [c.samples / c.total_seconds for c in calls],
        ),
        rate(
            regime,
            "throughput_tokens_per_second",
            "tokens/s",
            tokens / seconds,
            [c.new_tokens / c.total_seconds for c in calls],
        ),
        rate(
            regime,
            "new_tokens_mean",
            "tokens/sample",
            tokens / samples,
            [c.new_tokens / c.samples for c in calls],
        ),
    ]
    decoding = [call for call in calls if call.decode_tokens > 0]
    if decoding:
        found.append(
            rate(
                regime,
                "decode_tokens_per_second",
                "tokens/s",
                sum(c.decode_tokens for c in decoding) / sum(c.decode_seconds for c in decoding),
                [c.decode_tokens / c.decode_seconds for c in decoding],
            )
        )
    for peak in window.peaks:
        found.append(memory_quantity(regime, peak.name, peak.bytes, len(calls), peak.kind))
    for drawn in window.energy:
        for what, count in (("sample", samples), ("token", tokens)):
            name, unit = f"{drawn.name}_joules_per_{what}", f"J/{what}"
            one = quantity(regime, name, drawn.joules / count, unit, len(calls))
            found.append({**one, "covers": drawn.covers})
    return found


def quantity(
    regime: str,
    name: str,
    value: float,
    unit: str,
    n: int,
    *,
    low: float | None = None,
    high: float | None = None,
) -> dict[str, Any]:
    """One measurement as it stands in the results file."""
    return {
        "regime": regime,
        "name": name,
        "value": value,
        "unit": unit,
        "n": n,
        "low": low,
        "high": high,
        "spread": SPREAD if low is not None else None,
    }


def memory_quantity(regime: str, name: str, size: int, n: int, kind: str) -> dict[str, Any]:
    """A measurement in MiB that names which kind of memory it is."""
    return {**quantity(regime, name, size / 2**20, "MiB", n), "memory_kind": kind}


def percentile(values: Sequence[float], percent: float) -> float:
    """The percentile of a sample, linear between neighbours (type 7 of Hyndman and Fan 1996)."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median(regime: str, name: str, unit: str, values: Sequence[float]) -> dict[str, Any]:
    """The median of single values, with their spread."""
    return rate(regime, name, unit, percentile(values, 50), values)


def rate(
    regime: str, name: str, unit: str, value: float, values: Sequence[float]
) -> dict[str, Any]:
    """A value that was computed over all, with the spread of single ones."""
    low, high = percentile(values, LOW_PERCENT), percentile(values, HIGH_PERCENT)
    return quantity(regime, name, value, unit, len(values), low=low, high=high)
