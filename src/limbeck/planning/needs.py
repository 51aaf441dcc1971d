"""What a planned run needs, stage by stage, and whether it fits: what `limbeck plan` shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.planning.disk import Disk
from limbeck.planning.estimate import Estimates, StageMemory, fits, samples_in
from limbeck.planning.machine import Machine
from limbeck.planning.mends import mends_for
from limbeck.planning.times import Times
from limbeck.recipe import Recipe
from limbeck.stages import Stage
from limbeck.store import Store


@dataclass(frozen=True)
class Needs:
    """Of a run.

    Attributes:
        stages: of each planned stage in turn, its memory, disk and time.
        summary: the machine, whether everything fits, the disk in all, the time in all, and what
            would make it fit.
    """

    stages: list[dict[str, Any]]
    summary: dict[str, Any]


def needs_of(
    recipe: Recipe,
    stages: Sequence[Stage],
    store: Store,
    data: Path | None,
    machine: Machine,
    measured: Times | None = None,
) -> Needs:
    """What stages need on a machine.

    Args:
        recipe: of the run.
        stages: planned.
        store: where they go.
        data: the finished data stage's folder; None before.
        machine: that it is for.
        measured: times from a micro-run, where there was one.
    """
    samples_of = samples_in(data)
    estimates = Estimates(recipe, samples_of, machine)
    disk, times = Disk(recipe, store, data), measured or Times.of_manifests(store)
    rows: list[dict[str, Any]] = []
    memories: list[tuple[Stage, StageMemory, bool]] = []
    for stage in stages:
        works = estimates.workloads_of(stage.kind, stage.title)
        memory, done = estimates.of(stage), store.is_complete(stage.kind, stage.fingerprint)
        memories.append((stage, memory, done))
        rows.append(
            {
                "memory": memory.describe(machine),
                "disk": disk.of(stage, works).describe(),
                "time": times.of(stage, works).describe(),
            }
        )
    left = [(stage, memory) for stage, memory, done in memories if not done]
    too_large = [stage for stage, memory in left if fits(memory, machine) is False]
    unknown = [stage for stage, memory in left if memory.unknown]
    summary = {
        "machine": machine.describe(),
        "fits": False if too_large else None if unknown else True,
        "too_large": [f"{stage.kind} {stage.title}" for stage in too_large],
        "unknown": [f"{stage.kind} {stage.title}" for stage in unknown],
        "mends": [],
        "disk": _disk(rows, stages, store, disk.free()),
        "time": _time(rows, [done for _, _, done in memories]),
    }
    if too_large:
        summary["mends"] = mends_for(recipe, samples_of, machine)
    return Needs(rows, summary)


def _disk(
    rows: Sequence[dict[str, Any]], stages: Sequence[Stage], store: Store, free: int
) -> dict[str, Any]:
    """What is still to be written: all that stays, and the largest that is there on the way."""
    left = [
        row["disk"]
        for row, stage in zip(rows, stages, strict=True)
        if not store.is_complete(stage.kind, stage.fingerprint)
    ]
    stays = sum(one["bytes"] or 0 for one in left)
    need = stays + max((one["temporary_bytes"] for one in left), default=0)
    return {
        "bytes": need,
        "free_bytes": free,
        "fits": need <= free,
        "unknown_stages": sum(one["unknown"] is not None for one in left),
    }


def _time(rows: Sequence[dict[str, Any]], done: Sequence[bool]) -> dict[str, Any]:
    left = [row["time"] for row, is_done in zip(rows, done, strict=True) if not is_done]
    known = [one["seconds"] for one in left if one["seconds"] is not None]
    return {
        "seconds": sum(known) if known else None,
        "unknown_stages": len(left) - len(known),
    }
