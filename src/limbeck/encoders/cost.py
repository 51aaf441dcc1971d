"""The cost stage: size, latency and memory of what is deployed, in a process of its own.

Of an adapter the teacher's picture side is deployed too, and runs for every picture. Called with
`python -m limbeck.encoders.cost JOB.json`, this module is that process.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from limbeck.encoders.data import Examples, read_examples
from limbeck.encoders.recipe import EncoderCosts
from limbeck.encoders.students import EncoderStudent, ImageInputs, TeacherShape, parameters
from limbeck.encoders.teachers import EncoderTeacher
from limbeck.errors import LimbeckError
from limbeck.recipe.component import build_component
from limbeck.store import write_json

FLOAT_BYTES = 4


def measure_cost(
    student: EncoderStudent,
    teacher: EncoderTeacher,
    model: Path,
    shape: TeacherShape,
    data: Path,
    output: Path,
    settings: EncoderCosts,
    device: str,
) -> dict[str, Any]:
    """Write `cost.json`.

    Raises:
        LimbeckError: the process failed.
    """
    job = {
        "student": student.model_dump(mode="json"),
        "teacher": teacher.model_dump(mode="json"),
        "model": str(model.resolve()),
        "shape": vars(shape),
        "data": str(data.resolve()),
        "settings": settings.model_dump(mode="json"),
        "device": device,
        "result": str((output / "cost.json").resolve()),
    }
    path = output / "job.json"
    write_json(path, job)
    command = [sys.executable, "-m", "limbeck.encoders.cost", str(path.resolve())]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LimbeckError(f"the process that measures ended with {done.returncode}: {last}")
    path.unlink()
    return json.loads((output / "cost.json").read_text())


def measure_here(job: dict[str, Any]) -> dict[str, Any]:
    """All figures of one student; latency is of one picture at a time, features included."""
    import numpy as np
    import psutil
    import torch

    from limbeck.encoders.features import gridded
    from limbeck.encoders.teacher_models import load_teacher

    student: Any = build_component("limbeck.encoders.students", "kind", job["student"])
    teacher: Any = build_component("limbeck.encoders.teachers", "kind", job["teacher"])
    settings = EncoderCosts.model_validate(job["settings"])
    shape, device = TeacherShape(**job["shape"]), job["device"]
    examples: Examples = read_examples(Path(job["data"]))
    tower = student.image_tower(shape).to(device).eval()
    own = parameters(tower)
    loaded, theirs = None, 0
    if not student.from_pixels:
        loaded = load_teacher(teacher, Path(job["model"]), device)
        theirs = sum(parameters(part) for part in teacher.image_side(loaded.model))

    def once(pixels: np.ndarray) -> None:
        if loaded is None:
            x = torch.from_numpy(np.array(pixels)).to(device).permute(0, 3, 1, 2) / 127.5 - 1
            tower(ImageInputs(pixels=x))
        else:
            found = gridded(loaded.look(pixels), shape.grid)
            pooled, tokens = (torch.from_numpy(part).to(device) for part in found[:2])
            tower(ImageInputs(pooled_BD=pooled, tokens_BGD=tokens))
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    rows = examples.of("test")[: settings.samples]
    pictures = [examples.pixels[row : row + 1] for row in rows]
    seconds: list[float] = []
    with torch.inference_mode():
        for number in range(settings.warmup):
            once(pictures[number % len(pictures)])
        for _ in range(settings.repeats):
            for pixels in pictures:
                started = time.perf_counter()
                once(pixels)
                seconds.append(time.perf_counter() - started)
    low, middle, high = np.quantile(seconds, [0.05, 0.5, 0.95])
    return {
        "deployed_parameters": own + theirs,
        "deployed_bytes": (own + theirs) * FLOAT_BYTES,
        "latency_ms": {"median": middle * 1e3, "p5": low * 1e3, "p95": high * 1e3},
        "timed": len(seconds),
        "resident_bytes": psutil.Process().memory_info().rss,
        "device": device,
        "threads": torch.get_num_threads(),
    }


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text())
    write_json(Path(given["result"]), measure_here(given))
