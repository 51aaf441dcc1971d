"""The process in which one model is measured; nothing but that model is loaded in it.

Started by `limbeck.benchmark.stage` as `python -m limbeck.benchmark.worker SPEC.json`. The spec
names the file for the answer: `{"results": ...}` or `{"error": ...}`.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from limbeck.benchmark.batches import full_batches
from limbeck.benchmark.cold import drop_from_page_cache
from limbeck.benchmark.energy import Energy
from limbeck.benchmark.machine import OtherWork, machine
from limbeck.benchmark.memory import gauge
from limbeck.benchmark.phases import Stopwatch, measure_phases, phase_quantities
from limbeck.benchmark.subject import Subject, model_files
from limbeck.benchmark.timing import (
    MemoryGauge,
    Window,
    measure,
    memory_quantity,
    quantities,
    quantity,
    timed_call,
)
from limbeck.data.samples import sample_from
from limbeck.errors import LimbeckError, MemoryExhaustedError, UsageError
from limbeck.recipe.sections import Benchmark, ModelSection
from limbeck.records import Sample

COLD = "cold_start"


def run(spec: dict[str, Any]) -> dict[str, Any]:
    """Everything that `results.json` holds, measured in this process."""
    section = ModelSection.model_validate(spec["section"])
    settings = Benchmark.model_validate(spec["settings"])
    samples = [sample_from(fields) for fields in spec["samples"]]
    data, device = Path(spec["data"]), str(spec["device"])
    files = model_files(section)  # also finds out whether it is there, before torch is loaded
    size = sum(path.stat().st_size for path in files)
    cache = drop_from_page_cache(files) if settings.cold_start else None
    memory = gauge(device)
    cold = _rehearse(section, settings, samples, data, device)
    energy = Energy(device)
    memory.settle()
    runtime_bytes = memory.current_bytes()
    subject, measurements = _load(section, data, device, memory, runtime_bytes)
    other = OtherWork()
    for regime, batch_size, limits in regimes(settings):
        with _memory_errors(regime, device):
            window = measure(
                partial(subject.generate, **limits),
                full_batches(samples, batch_size),
                prepare=subject.encode,
                memory=memory,
                repeats=settings.repeats,
                warmup=settings.warmup,
                energy=energy if energy.counters else None,
                synchronise=subject.synchronise,
            )
        _check_length(regime, window, limits)
        measurements += quantities(regime, window)
        measurements += [
            memory_quantity(
                regime,
                f"model_{peak.name}",
                peak.bytes - runtime_bytes,
                len(window.calls),
                peak.kind,
            )
            for peak in window.peaks
            if peak.kind == memory.kind
        ]
    phases, without_phases = _phases(subject, settings, samples, device)
    other_cores = other.cores()
    encoded = subject.encode(samples)
    return {
        "measurements": [*measurements, *phases, *(cold if settings.cold_start else ())],
        "without_phases": without_phases,
        "page_cache": cache,
        "energy": energy.describe(),
        "machine": machine(device, threads=_threads()),
        "other_busy_cores": round(other_cores, 2),
        **subject.describe(),
        "disk_bytes": size,
        "memory_kind": memory.kind,
        "memory_method": memory.method,
        "samples": len(samples),
        "prompt_tokens_mean": sum(len(item.input_ids_L) for item in encoded) / len(encoded),
        "visual_tokens_mean": sum(item.visual_tokens for item in encoded) / len(encoded),
        "seed": spec["seed"],
        "settings": settings.here(),
    }


def regimes(settings: Benchmark) -> list[tuple[str, int, dict[str, int]]]:
    """Name, batch size and token limits of each, the small ones first.

    In this order what a larger batch leaves behind in the allocators cannot be counted again.
    """
    count = settings.new_tokens
    natural = ("natural_length/batch_1", 1, {"max_new_tokens": settings.max_new_tokens})
    fixed = [
        (f"fixed_length/batch_{size}", size, {"max_new_tokens": count, "min_new_tokens": count})
        for size in sorted(set(settings.batch_sizes))
    ]
    return [natural, *fixed]


def main(arguments: list[str]) -> int:
    """Measure what the spec asks for, write the answer, return the exit code."""
    spec = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    answer, exit_code = answer_to(spec)
    Path(spec["answer"]).write_text(json.dumps(answer), encoding="utf-8")
    return exit_code


def answer_to(spec: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """Results or one of our errors, and the exit code; other errors pass through."""
    try:
        return {"results": run(spec)}, 0
    except LimbeckError as error:
        problem = {"what": error.what, "where": error.where, "mend": error.mend}
        return {"error": problem}, error.exit_code


def _set_threads(settings: Benchmark) -> None:
    import torch

    if settings.threads:
        torch.set_num_threads(settings.threads)


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _rehearse(
    section: ModelSection, settings: Benchmark, samples: list[Sample], data: Path, device: str
) -> list[dict[str, Any]]:
    """The first start in this process: load, answer a first request, and let go of the model.

    After it the libraries' code, their lazy imports and the device's context are in memory, so
    that what the second loading adds is the model.

    Returns:
        What the first start took; the clock stood still for nothing but the imports of Limbeck.
    """
    began = time.perf_counter()
    import torch  # noqa: F401
    import transformers  # noqa: F401

    imported = time.perf_counter()
    _set_threads(settings)
    with _memory_errors("the first batch", device):
        started = time.perf_counter()
        subject = Subject(section, data, device)
        loaded = time.perf_counter()
        count = settings.new_tokens
        limits = {"max_new_tokens": count, "min_new_tokens": count}
        first = timed_call(
            partial(subject.generate, **limits), samples[:1], subject.encode, subject.synchronise
        )
        batch = full_batches(samples, max(settings.batch_sizes))[0]
        subject.generate(subject.encode(batch), lambda: None, max_new_tokens=2)
    return [
        quantity(COLD, "import_seconds", imported - began, "s", 1),
        quantity(COLD, "load_seconds", loaded - started, "s", 1),
        quantity(COLD, "preprocess_ms", 1000 * first.preprocess_seconds, "ms", 1),
        quantity(COLD, "time_to_first_token_ms", 1000 * first.first_token_seconds, "ms", 1),
        quantity(COLD, "latency_ms", 1000 * first.total_seconds, "ms", 1),
    ]


def _phases(
    subject: Subject, settings: Benchmark, samples: list[Sample], device: str
) -> tuple[list[dict[str, Any]], str | None]:
    """The parts of the time to the first token, for every batch size; or why there are none."""
    found: list[dict[str, Any]] = []
    watch = Stopwatch(subject.synchronise)
    try:
        with subject.watched(watch):
            for size in sorted(set(settings.batch_sizes)):
                with _memory_errors(regime := f"phases/batch_{size}", device):
                    phases = measure_phases(
                        partial(subject.generate, max_new_tokens=1),
                        full_batches(samples, size),
                        prepare=subject.encode,
                        watch=watch,
                        repeats=settings.repeats,
                        warmup=settings.warmup,
                    )
                found += phase_quantities(regime, phases)
    except UsageError as error:
        return [], error.what
    return found, None


def _load(
    section: ModelSection, data: Path, device: str, memory: MemoryGauge, runtime_bytes: int
) -> tuple[Subject, list[dict[str, Any]]]:
    started = time.perf_counter()
    with _memory_errors("load", device):
        subject = Subject(section, data, device)
    seconds = time.perf_counter() - started
    memory.settle()
    loaded_bytes = memory.current_bytes()
    in_memory = partial(memory_quantity, "load", n=1, kind=memory.kind)
    return subject, [
        quantity("load", "load_seconds", seconds, "s", 1),
        in_memory("runtime_memory_mib", runtime_bytes),
        in_memory("model_memory_mib", loaded_bytes - runtime_bytes),
        memory_quantity("load", "weights_mib", subject.weight_bytes, 1, "counted"),
    ]


def _check_length(regime: str, window: Window, limits: dict[str, int]) -> None:
    fixed = limits.get("min_new_tokens")
    for call in window.calls:
        if fixed is not None and call.new_tokens != fixed * call.samples:
            raise LimbeckError(
                f"{call.new_tokens} tokens were generated where {fixed * call.samples} were asked",
                where=f"benchmark {regime}",
                mend="please report this model",
            )


@contextmanager
def _memory_errors(regime: str, device: str) -> Generator[None]:
    """Out of memory as our error, whichever way the device says it."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, LimbeckError) or not _is_out_of_memory(error):
            raise
        raise MemoryExhaustedError(
            f"the memory of {device} does not hold the model with this batch",
            where=f"benchmark {regime}",
            mend="lower benchmark.batch_sizes, max_pixels, or use quantization: nf4",
        ) from error


def _is_out_of_memory(error: Exception) -> bool:
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)  # torch's CPU and Metal allocators raise a plain RuntimeError
    return "can't allocate memory" in text or "out of memory" in text


def _end_with_parent() -> None:
    """End this process when the one that started it is gone and its end of stdin closes."""

    def wait() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    _end_with_parent()
    sys.exit(main(sys.argv[1:]))
