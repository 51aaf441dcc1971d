"""The benchmark stage: one model, measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limbeck import errors
from limbeck.benchmark.batches import samples_to_time
from limbeck.errors import LimbeckError, MemoryExhaustedError
from limbeck.recipe.sections import Benchmark, ModelSection
from limbeck.records import Sample
from limbeck.store import write_json

RESULTS = "results.json"
WORKER_LOG = "worker.log"

_BY_EXIT_CODE = {
    cls.exit_code: cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, LimbeckError)
}
_KILLED = -9


def benchmark_model(
    section: ModelSection,
    settings: Benchmark,
    data: Path,
    output: Path,
    *,
    device: str,
    seed: int = 0,
    ask: Callable[[Sample], Sample] | None = None,
) -> dict[str, Any]:
    """Measure a model on images of the data set and write `results.json`.

    The worker gets the samples themselves, so that it loads the model and nothing else. Its
    stderr is kept as `worker.log` where it fails.

    Args:
        section: the evaluated artefact; its `model` is a folder or a hub id.
        settings: what to measure.
        data: the data stage's folder.
        output: where `results.json` goes; one that is there already is not measured again.
        device: torch device name.
        seed: of the choice of samples; the same for all models that are compared.
        ask: how the model is asked where that is not as the data has it (see
            `limbeck.teachers.specialised`), so that what is timed is what was evaluated.

    Raises:
        DataError: no samples in `settings.split`, or the worker could not use them.
        MemoryExhaustedError: the model does not fit, or not with the largest batch size.
        LimbeckError: the worker failed otherwise.
    """
    output.mkdir(parents=True, exist_ok=True)
    path = output / RESULTS
    if not path.is_file():
        samples = samples_to_time(data, settings, seed, ask)
        write_json(path, _in_own_process(section, settings, samples, data, output, device, seed))
    return _summary(json.loads(path.read_text(encoding="utf-8")))


def _in_own_process(
    section: ModelSection,
    settings: Benchmark,
    samples: list[Sample],
    data: Path,
    output: Path,
    device: str,
    seed: int,
) -> dict[str, Any]:
    fields = section.model_dump(mode="json")
    spec = {
        "section": {name: fields[name] for name in ModelSection.model_fields},
        "settings": settings.here(),
        "samples": [asdict(sample) for sample in samples],
        "data": str(data),
        "device": device,
        "seed": seed,
    }
    environment = dict(os.environ)
    if settings.threads:
        environment["OMP_NUM_THREADS"] = str(settings.threads)
    log = output / WORKER_LOG
    with tempfile.TemporaryDirectory(prefix="limbeck-benchmark-") as temporary:
        spec_path, answer_path = Path(temporary) / "spec.json", Path(temporary) / "answer.json"
        spec_path.write_text(json.dumps({**spec, "answer": str(answer_path)}), encoding="utf-8")
        # -P: a file in the current folder must not be imported in place of a library.
        command = [sys.executable, "-P", "-m", "limbeck.benchmark.worker", str(spec_path)]
        exit_code = _run(command, environment, log)
        answer: dict[str, Any] = (
            json.loads(answer_path.read_text("utf-8")) if answer_path.is_file() else {}
        )
    if exit_code == 0 and "results" in answer:
        log.unlink()
        return answer["results"]
    raise failure(exit_code, answer.get("error"), log)


def _run(command: list[str], environment: dict[str, str], log: Path) -> int:
    with (
        log.open("wb") as stderr,
        # The worker ends when its stdin does: should this process be killed, it does not go on
        # and disturb whoever measures next.
        subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        ) as process,
    ):
        try:
            return process.wait()
        except BaseException:
            process.kill()
            raise


def failure(exit_code: int, error: dict[str, Any] | None, log: Path) -> LimbeckError:
    """The error that a worker ended with, as one of ours."""
    if error is not None:
        cls = _BY_EXIT_CODE.get(exit_code, LimbeckError)
        return cls(error["what"], where=error["where"], mend=error["mend"])
    if exit_code == _KILLED:
        return MemoryExhaustedError(
            "the benchmark's process was killed, most likely because memory ran out",
            where="benchmark",
            mend="lower benchmark.batch_sizes, or measure on a machine with more memory",
        )
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n") if log.is_file() else []
    last = next((line for line in reversed(lines) if line.strip()), "it said nothing")
    return LimbeckError(
        f"the benchmark's process ended with exit code {exit_code} ({last.strip()[:300]})",
        where="benchmark",
        mend=f"read {log}",
    )


def _summary(results: dict[str, Any]) -> dict[str, Any]:
    chosen = ("latency_ms", "decode_tokens_per_second", "peak_memory_mib", "load_seconds")
    return {
        "parameters": results["parameters"],
        "samples": results["samples"],
        "measurements": {
            f"{one['regime']}/{one['name']}": one["value"]
            for one in results["measurements"]
            if one["name"] in chosen
        },
    }
