"""The features of a frozen vision tower, kept on disk while a student is trained.

This is a cache and no result: it is dropped when the stage is finished. A block holds the prompts
of some samples without their pixels; the JSON file beside it is written last and has its checksum,
so that a run which was killed computes only the blocks that are not whole.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from limbeck.data.tokens import Encoded
from limbeck.models.vision_features import check_cacheable, features_of, without_pixels
from limbeck.progress import meter, say
from limbeck.records import Sample
from limbeck.store import file_sha256, write_atomic, write_json
from limbeck.training.job import Job

FOLDER = "vision_features"
"""Sub-folder of a training stage that is not finished."""

SAMPLES_PER_BLOCK = 32
"""How many samples a kill can lose."""


class VisionCache:
    """Prompts with features in place of pixels, by sample id, from memory-mapped files."""

    def __init__(self, folder: Path, blocks: Sequence[Sequence[Sample]]) -> None:
        self._folder = folder
        self._places = {
            sample.id: (number, position)
            for number, block in enumerate(blocks)
            for position, sample in enumerate(block)
        }
        self._opened: dict[int, Any] = {}
        self.facts: dict[str, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes open the files themselves."""
        return {**vars(self), "_opened": {}}

    def prompt(self, sample_id: str) -> Encoded | None:
        """The sample without an answer; None where it has no pictures."""
        place = self._places.get(sample_id)
        if place is None:
            return None
        number, position = place
        if number not in self._opened:
            self._opened[number] = _Block(_path(self._folder, number))
        return self._opened[number].prompt(position)


class _Block:
    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt")
        self._names: dict[int, list[tuple[str, str]]] = {}
        for key in self._file.keys():  # noqa: SIM118 (it is no dict)
            position, kind, name = key.split("/")
            self._names.setdefault(int(position), []).append((kind, name))

    def prompt(self, position: int) -> Encoded:
        found: dict[str, dict[str, Tensor]] = {"prompt": {}, "aligned": {}, "features": {}}
        for kind, name in self._names[position]:
            found[kind][name] = self._file.get_tensor(f"{position}/{kind}/{name}")
        ids_L, visual = found["prompt"]["ids"], found["prompt"]["visual_tokens"]
        return Encoded(ids_L, len(ids_L), found["aligned"], found["features"], int(visual))


def cache_vision_features(job: Job, accelerator: Accelerator) -> VisionCache | None:
    """Compute what is not there yet, shared by all ranks; None where the recipe does not ask.

    Raises:
        UsageError: the student's vision tower or projector is trained, or its family needs more.
        DataError: a broken picture, or a disk that is full.
    """
    samples = list({e.sample.id: e.sample for e in job.examples if e.sample.images}.values())
    if not job.training.cache_vision_features or not samples:
        return None
    started = time.monotonic()
    folder = job.output / FOLDER
    blocks = [
        samples[first : first + SAMPLES_PER_BLOCK]
        for first in range(0, len(samples), SAMPLES_PER_BLOCK)
    ]
    with accelerator.autocast():
        example = next(e for e in job.examples if e.sample.id == samples[0].id)
        check_cacheable(job.student, job.student.encoder.encode(example.sample, job.data, "a"))
        own = range(accelerator.process_index, len(blocks), accelerator.num_processes)
        missing = [n for n in own if not _is_whole(_path(folder, n), blocks[n])]
        with meter("vision features", len(own), done=len(own) - len(missing)) as progress:
            for number in missing:
                _write(_path(folder, number), blocks[number], job)
                progress.advance()
    accelerator.wait_for_everyone()
    cache = VisionCache(folder, blocks)
    size = sum(_path(folder, n).stat().st_size for n in range(len(blocks)))
    cache.facts |= {
        "samples": len(samples),
        "mebibytes": round(size / 2**20, 3),
        "seconds": round(time.monotonic() - started, 3),
    }
    if accelerator.is_main_process:
        kept = len(own) - len(missing)
        say(
            f"  vision features: cached for {len(samples)} samples,"
            f" {cache.facts['mebibytes']:.1f} MiB in {cache.facts['seconds']:.1f} s"
            + (f" ({kept} of {len(own)} blocks were there)" if kept else "")
        )
    return cache


def _write(path: Path, block: Sequence[Sample], job: Job) -> None:
    import torch

    tensors: dict[str, Tensor] = {}
    for position, sample in enumerate(block):
        seen = job.student.encoder.encode(sample, job.data, None)
        item = without_pixels(seen, features_of(job.student, seen))
        tensors[f"{position}/prompt/ids"] = item.input_ids_L
        tensors[f"{position}/prompt/visual_tokens"] = torch.tensor(item.visual_tokens)
        for kind, named in (("aligned", item.aligned), ("features", item.features)):
            tensors |= {f"{position}/{kind}/{name}": tensor for name, tensor in named.items()}
    write_atomic(path, save({name: t.cpu().contiguous() for name, t in tensors.items()}))
    write_json(
        path.with_suffix(".json"),
        {"samples": [sample.id for sample in block], "sha256": file_sha256(path)},
    )


def _is_whole(path: Path, block: Sequence[Sample]) -> bool:
    try:
        noted = json.loads(path.with_suffix(".json").read_text())
    except (FileNotFoundError, ValueError):
        return False
    expected = {"samples": [sample.id for sample in block]}
    return path.is_file() and noted == {**expected, "sha256": file_sha256(path)}


def _path(folder: Path, number: int) -> Path:
    return folder / f"block-{number:05d}.safetensors"
