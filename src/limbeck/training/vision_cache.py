"""The features of a frozen vision tower, kept on disk while a student is trained.

This is a cache and no result: it is dropped when the stage is finished. Samples with the same
pictures share one set of features. A block (`vision_blocks.py`) is whole or computed again, so that
a run which was killed goes on with the first block that is missing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from limbeck.data.tokens import Encoded, Encoder
from limbeck.data.workers import prepared
from limbeck.errors import UsageError
from limbeck.models.vision_features import WHERE, check_cacheable, features_of, without_pixels
from limbeck.progress import meter, say
from limbeck.records import Sample
from limbeck.training.feature_coding import NO_ERROR
from limbeck.training.job import Job
from limbeck.training.vision_blocks import BlockReader, facts_of, is_whole, path_of, write_block

FOLDER = "vision_features"
"""Sub-folder of a training stage that is not finished."""

GROUPS_PER_BLOCK = 32
"""How many samples (with pictures of their own) a kill can lose."""

MAX_RELATIVE_ERROR = 0.05
"""Above it int8 does not hold these features."""

Group = Sequence[Sample]
"""Samples with the same pictures."""


class VisionCache:
    """Prompts with features in place of pixels, by sample id, from memory-mapped files."""

    def __init__(self, folder: Path, blocks: Sequence[Sequence[Group]]) -> None:
        self._folder = folder
        self._places = {
            sample.id: (number, position)
            for number, block in enumerate(blocks)
            for position, group in enumerate(block)
            for sample in group
        }
        self._opened: dict[int, BlockReader] = {}
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
            self._opened[number] = BlockReader(path_of(self._folder, number))
        return self._opened[number].prompt(sample_id, position)


@dataclass(frozen=True)
class _Reader:
    """Opens and prepares the pictures of some groups; runs in worker processes."""

    encoder: Encoder
    data: Path

    def __call__(self, groups: Sequence[Group]) -> list[list[Encoded]]:
        """Each group's samples as prompts, the first one's with pixels."""
        return [
            [self._prompt(sample, pixels=n == 0) for n, sample in enumerate(group)]
            for group in groups
        ]

    def _prompt(self, sample: Sample, *, pixels: bool) -> Encoded:
        item = self.encoder.encode(sample, self.data, None)
        return item if pixels else without_pixels(item, {})


def cache_vision_features(job: Job, accelerator: Accelerator) -> VisionCache | None:
    """Compute what is not there yet, shared by all ranks; None where the recipe does not ask.

    Raises:
        UsageError: the student's vision tower or projector is trained, its family needs more, or
            int8 does not hold its features.
        DataError: a broken picture, or a disk that is full.
    """
    samples = list({e.sample.id: e.sample for e in job.examples if e.sample.images}.values())
    coding = job.training.cache_vision_features
    if not coding or not samples:
        return None
    started = time.monotonic()
    folder = job.output / FOLDER
    blocks = _chunks(groups_of(samples), GROUPS_PER_BLOCK)
    with accelerator.autocast():
        example = next(e for e in job.examples if e.sample.id == samples[0].id)
        check_cacheable(job.student, job.student.encoder.encode(example.sample, job.data, "a"))
        own = range(accelerator.process_index, len(blocks), accelerator.num_processes)
        missing = [n for n in own if not is_whole(path_of(folder, n), blocks[n], coding)]
        with meter("vision features", len(own), done=len(own) - len(missing)) as progress:
            made = _computed([blocks[n] for n in missing], job)
            for number, (prompts, features) in zip(missing, made, strict=True):
                path = path_of(folder, number)
                write_block(path, blocks[number], prompts, features, coding)
                progress.advance()
    accelerator.wait_for_everyone()
    cache = VisionCache(folder, blocks)
    cache.facts |= _summary(folder, len(blocks), coding, len(samples))
    cache.facts["seconds"] = round(time.monotonic() - started, 3)
    if accelerator.is_main_process:
        kept = len(own) - len(missing)
        say(
            f"  vision features: cached for {len(samples)} samples ({cache.facts['coding']}),"
            f" {cache.facts['mebibytes']:.1f} MiB in {cache.facts['seconds']:.1f} s"
            + (f", relative error {cache.facts['relative_error']:.2%}" if coding == "int8" else "")
            + (f" ({kept} of {len(own)} blocks were there)" if kept else "")
        )
    return cache


def groups_of(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples with the same pictures together, in the order in which pictures first come."""
    groups: dict[tuple[str, ...], list[Sample]] = {}
    for sample in samples:
        groups.setdefault(tuple(file.path for file in sample.images), []).append(sample)
    return list(groups.values())


def _computed(
    blocks: Sequence[Sequence[Group]], job: Job
) -> Iterator[tuple[list[list[Encoded]], list[dict[str, Tensor]]]]:
    """Of each block: every group's prompts without pixels, and every group's features."""
    size = job.training.samples_per_micro_batch
    batches = [batch for block in blocks for batch in _chunks(block, size)]
    stream = prepared(_Reader(job.student.encoder, job.data), batches, workers=job.training.workers)
    for block in blocks:
        prompts: list[list[Encoded]] = []
        features: list[dict[str, Tensor]] = []
        while len(prompts) < len(block):
            groups = next(stream)
            found = features_of(job.student, [group[0] for group in groups])
            features += [{n: rows.cpu() for n, rows in one.items()} for one in found]
            prompts += [[without_pixels(group[0], {}), *group[1:]] for group in groups]
        yield prompts, features


def _chunks(groups: Sequence[Group], size: int) -> list[Sequence[Group]]:
    return [groups[start : start + size] for start in range(0, len(groups), size)]


def _summary(folder: Path, blocks: int, coding: str, samples: int) -> dict[str, Any]:
    """Of all ranks' blocks; refuses a coding that lost too much."""
    found = [facts_of(path_of(folder, n)) for n in range(blocks)]
    error = sum((one.error for one in found), NO_ERROR)
    if error.relative > MAX_RELATIVE_ERROR:
        raise UsageError(
            f"int8 changes the features of pictures by {error.relative:.1%}",
            where=WHERE,
            mend="set it to exact",
        )
    return {
        "coding": coding,
        "samples": samples,
        "sets_of_pictures": sum(one.groups for one in found),
        "visual_tokens": sum(one.visual_tokens for one in found),
        "mebibytes": round(sum(one.bytes for one in found) / 2**20, 3),
        "relative_error": error.relative,
        "relative_error_worst": max(one.worst for one in found),
    }
