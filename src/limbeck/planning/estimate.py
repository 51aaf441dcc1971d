"""The memory of every stage of a recipe on a machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from pathlib import Path
from typing import Any, cast

from limbeck.errors import DataError
from limbeck.planning.machine import Machine
from limbeck.planning.memory import Memory, Part, memory_of
from limbeck.planning.models import Unknown
from limbeck.planning.workload import SamplesOf, Workload, local_teachers, workloads
from limbeck.recipe import Recipe
from limbeck.records import Sample
from limbeck.stages import Stage
from limbeck.teachers import Teacher

WITHOUT_MODEL = ("data", "evaluation", "report")
"""Kinds of stages that load none."""


@dataclass(frozen=True)
class StageMemory:
    """A stage's peak on a device; `unknown` says why there is none, `assumed` what it rests on."""

    memory: Memory | None = None
    unknown: str = ""
    assumed: str = ""

    @property
    def bytes(self) -> float | None:
        """The peak."""
        return self.memory.bytes if self.memory else None

    def describe(self, machine: Machine) -> dict[str, Any] | None:
        """As plain values; None where no model is loaded."""
        if self.memory is None and not self.unknown:
            return None
        parts = self.memory.parts if self.memory else ()
        return {
            "bytes": self.bytes,
            "runtime_bytes": machine.runtime.bytes,
            "parts": [{"name": part.name, "bytes": part.bytes} for part in parts],
            "sizes_from": self.memory.source if self.memory else None,
            "assumed": self.assumed or None,
            "unknown": self.unknown or None,
            "fits": fits(self, machine),
        }


def fits(one: StageMemory, machine: Machine) -> bool | None:
    """Whether a stage fits a machine with its margin; None where that is not known."""
    if one.bytes is None:
        return None
    return one.bytes + machine.runtime.bytes <= machine.usable


class Estimates:
    """What the stages of a recipe need, found by their kind and title.

    Args:
        recipe: of the run.
        samples_of: see `samples_in`.
        machine: that it is for.
    """

    def __init__(self, recipe: Recipe, samples_of: SamplesOf, machine: Machine) -> None:
        self._machine = machine
        self._teachers = local_teachers(cast(Teacher, recipe.teacher))
        self._why = ""
        try:
            self._works = workloads(recipe, samples_of)
        except Unknown as error:
            self._works, self._why = [], str(error)

    @cached_property
    def largest(self) -> float:
        """The peak of the stage that has the highest, of those that are known; else 0."""
        found = (self._one(work).bytes for work in self._works)
        return max((size for size in found if size is not None), default=0.0)

    def workloads_of(self, kind: str, title: str) -> list[Workload]:
        """Those of a stage; stages of one kind and title may be several models'."""
        exact = [work for work in self._works if (work.kind, work.title) == (kind, title)]
        if exact:
            return exact
        # Rounds in which data grows are named after the arm, and built models after more.
        own = [work for work in self._works if work.kind == kind and title.startswith(work.title)]
        if kind == "labels" and title.endswith(" by teacher"):
            own = [work for work in self._works if work.kind == kind]
        elif kind == "labels":
            _, _, who = title.rpartition(" by ")
            own = [w for w in self._works if w.kind == "predictions" and who.startswith(w.title)]
        return own

    def memory_of(self, kind: str, title: str) -> StageMemory:
        """Of one stage: the largest where it is several models'."""
        if kind in WITHOUT_MODEL or (kind, title) == ("predictions", "most_frequent"):
            return StageMemory()
        works = self.workloads_of(kind, title)
        if not works:
            served = not self._teachers and kind in ("labels", "predictions")
            why = "a server's or another process's" if served else "no rule for this stage"
            return StageMemory(unknown=self._why or why)
        found = [self._one(work) for work in works]
        unknown = next((one for one in found if one.memory is None), None)
        return unknown or max(found, key=lambda one: one.bytes or 0)

    def of(self, stage: Stage) -> StageMemory:
        """Of a planned stage."""
        return self.memory_of(stage.kind, stage.title)

    def all(self) -> list[tuple[Workload, StageMemory]]:
        """Every workload with its memory."""
        return [(work, self._one(work)) for work in self._works]

    def _one(self, work: Workload) -> StageMemory:
        count = self._machine.count
        if count > 1 and work.training is not None and work.training.samples_per_step:
            share = ceil(work.training.samples_per_step / count)
            work = replace(work, batch=min(work.batch, share))
        try:
            memory = memory_of(work, self._teachers, self._machine.device)
        except Unknown as error:
            return StageMemory(unknown=str(error))
        if count > 1 and work.doing == "train":
            memory = _with_buckets(memory)
        return StageMemory(memory, assumed=work.lengths.assumed)


def samples_in(data: Path | None) -> SamplesOf:
    """Reads the samples of splits from a finished data stage; None before that is done."""
    whole: list[Sample] = []

    def samples_of(splits: str | Sequence[str], limit: int | None) -> list[Sample] | None:
        if data is None:
            return None
        if not whole:
            from limbeck.data.samples import read_samples

            try:
                whole.extend(read_samples(data))
            except DataError:
                return None
        wanted = {splits} if isinstance(splits, str) else set(splits)
        return [sample for sample in whole if sample.split in wanted][:limit]

    return samples_of


def _with_buckets(memory: Memory) -> Memory:
    """Data parallel: DistributedDataParallel copies gradients into buckets to exchange them."""
    gradients = sum(part.bytes for part in memory.parts if part.name == "gradients")
    return replace(memory, parts=(*memory.parts, Part("buckets of gradients", gradients)))
