"""READ THIS FIRST: the stages in order, what each reads and makes, and what is cached.

    data ──▶ models (built or composed) ──▶ teacher (fine-tuned) ──▶ labels
         ──▶ student (an arm and a seed) ──▶ predictions (a model) ──▶ evaluation
         ──▶ benchmark (a model) ──▶ report

Where the data grows, a student is followed by the labels of the next round and its student.

`stages_of` turns a recipe into that list; `build_plan` says which of them are done; `run` makes the
others, one after the other. Which models there are is `recipe/arms.py`'s business.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from limbeck.errors import LimbeckError, UsageError
from limbeck.progress import say
from limbeck.recipe import Recipe
from limbeck.stages import COMMANDS, Command, Stage
from limbeck.store import Store, write_json

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class PlannedStage:
    """A stage and whether its folder is already there."""

    stage: Stage
    done: bool
    folder: Path
    needs: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "kind": self.stage.kind,
            "title": self.stage.title,
            "command": self.stage.command,
            "fingerprint": self.stage.fingerprint,
            "folder": str(self.folder),
            "done": self.done,
            **self.needs,
        }


@dataclass(frozen=True)
class Plan:
    """What would run; `problems` are reasons why it could not.

    `needs` has the machine, whether the run fits it, and what would make it fit; each stage its
    own memory, disk and time (`limbeck.planning`).
    """

    name: str
    stages: list[PlannedStage]
    problems: list[LimbeckError]
    visual_budgets: dict[str, dict[str, Any]]
    disk: list[dict[str, Any]]
    needs: dict[str, Any]

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "name": self.name,
            "stages": [stage.describe() for stage in self.stages],
            "problems": [str(problem) for problem in self.problems],
            "visual_budgets": self.visual_budgets,
            "disk": self.disk,
            "needs": self.needs,
        }


@dataclass
class RunResult:
    """What a run did, stage by stage, and where its report is."""

    name: str
    stages: list[dict[str, Any]] = field(default_factory=lambda: [])
    report: Path | None = None
    verdict: str | None = None

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "name": self.name,
            "stages": self.stages,
            "report": str(self.report) if self.report else None,
            "verdict": self.verdict,
        }


Event = Callable[[str, Stage], None]
"""Called with "cached", "start" or "done" and the stage."""


def build_plan(
    recipe: Recipe,
    *,
    until: Command | None = None,
    gpu: str | None = None,
    ram: str | None = None,
    measure: bool = False,
) -> Plan:
    """The stages that a run would make, without loading a model or touching the work folder.

    A model that is not on this machine is a problem of the plan; what depends on it is left out.

    Args:
        recipe: of the run.
        until: the last stages to plan; None plans all.
        gpu: plan for such a card, "24GiB", or several, "4x80GiB"; None plans for this machine.
        ram: plan for a machine with so much memory and no GPU.
        measure: find out how long stages take by a micro-run, in a process and a folder of its own.
    """
    from limbeck.graph import graph_of
    from limbeck.graph.budget import visual_budgets
    from limbeck.graph.disk import disk_needs
    from limbeck.planning.machine import machine_of
    from limbeck.planning.micro_run import micro_run
    from limbeck.planning.needs import needs_of

    graph = graph_of(recipe)
    store = Store(Path(recipe.work))
    data = store.folder(graph.data.kind, graph.data.fingerprint)
    counted = data if store.is_complete(graph.data.kind, graph.data.fingerprint) else None
    stages = _until(graph.stages, until)
    machine = machine_of(graph.device, gpu, ram)
    times = micro_run(recipe, graph.stages, store, graph.problems) if measure else None
    needs = needs_of(recipe, stages, store, counted, machine, times)
    planned = [
        PlannedStage(
            s, store.is_complete(s.kind, s.fingerprint), store.folder(s.kind, s.fingerprint), own
        )
        for s, own in zip(stages, needs.stages, strict=True)
    ]
    disk = disk_needs(recipe, counted)
    budgets = visual_budgets(recipe)
    return Plan(recipe.name, planned, graph.problems, budgets, disk, needs.summary)


class Runnable(Protocol):
    """What a run needs of a recipe."""

    @property
    def name(self) -> str: ...  # noqa: D102

    @property
    def work(self) -> str: ...  # noqa: D102

    def model_dump(self, *, mode: str) -> dict[str, Any]: ...  # noqa: D102


class StageGraph(Protocol):
    """Stages in the order in which they can be made, and what prevents that."""

    stages: list[Stage]
    problems: list[LimbeckError]


def run(
    recipe: Runnable,
    *,
    until: Command | None = None,
    on_event: Event | None = None,
    build: Callable[[Any], StageGraph] | None = None,
) -> RunResult:
    """Make every stage that is not there yet, up to and with those of `until`.

    Under torchrun or accelerate launch, stages that train run on all ranks; the others run on
    rank 0 while the rest wait for their folders.

    Args:
        recipe: what is run.
        until: the last stages to make; None makes all.
        on_event: is told of every stage.
        build: makes the graph of another kind of recipe than `Recipe`.

    Raises:
        LimbeckError: the first thing that cannot be done; finished stages stay.
    """
    if build is None:
        from limbeck.graph import graph_of

        build = graph_of
    graph = build(recipe)
    if graph.problems:
        raise graph.problems[0]
    store = Store(Path(recipe.work))
    result = RunResult(recipe.name)
    rank = int(os.environ.get("RANK", "0"))
    report: Stage | None = None
    for stage in _until(graph.stages, until):
        cached = store.is_complete(stage.kind, stage.fingerprint)
        if on_event:
            on_event("cached" if cached else "start", stage)
        if not cached:
            _make(store, stage, rank)
        manifest = store.manifest(stage.kind, stage.fingerprint)
        result.stages.append(
            {
                "kind": stage.kind,
                "title": stage.title,
                "fingerprint": stage.fingerprint,
                "folder": str(store.folder(stage.kind, stage.fingerprint)),
                "seconds": manifest["seconds"],
                "cached": cached,
            }
        )
        if on_event and not cached:
            on_event("done", stage)
        if stage.command == "report":
            report = stage
            result.verdict = manifest["summary"].get("verdict")
    if rank == 0:
        result.report = _publish(recipe, store, result, report)
    return result


def _until(stages: list[Stage], until: Command | None) -> list[Stage]:
    """The stages of a command and everything that they read, in order."""
    if until is None:
        return stages
    if until not in COMMANDS:
        raise UsageError(f"{until!r} is no stage", mend=f"choose one of {', '.join(COMMANDS)}")
    wanted: set[str] = set()

    def want(stage: Stage) -> None:
        if stage.fingerprint not in wanted:
            wanted.add(stage.fingerprint)
            for read in stage.reads.values():
                want(read)

    for stage in stages:
        if stage.command == until:
            want(stage)
    return [stage for stage in stages if stage.fingerprint in wanted]


def _make(store: Store, stage: Stage, rank: int) -> None:
    """Make one stage under its lock, or (on other ranks) take part in it or wait for it."""
    if rank != 0 and not stage.collective:
        _wait(store, stage)
        return
    if rank != 0 and _wait(store, stage, until_begun=True):
        return
    inputs = {
        name: store.open(read.kind, read.fingerprint, contents=_verify_once(store, read))
        for name, read in stage.reads.items()
    }
    if rank != 0:
        partial = store.folder(stage.kind, stage.fingerprint)
        stage.make(partial.with_name(f"{partial.name}-partial"), inputs)
        _wait(store, stage)
        return
    say(f"{stage.kind}: {stage.title}")
    with store.make(stage.kind, stage.fingerprint, identity=stage.full_identity) as folder:
        if folder is not None:
            folder.summary |= stage.make(folder.path, inputs)


_verified: set[tuple[Path, str, str]] = set()


def _verify_once(store: Store, stage: Stage) -> bool:
    """Whether the contents of a folder have yet to be hashed by this process."""
    key = (store.root, stage.kind, stage.fingerprint)
    if key in _verified:
        return False
    _verified.add(key)
    return True


def _wait(store: Store, stage: Stage, *, until_begun: bool = False) -> bool:
    """Wait until rank 0 has finished a stage, or begun it; returns whether it is finished."""
    folder = store.folder(stage.kind, stage.fingerprint)
    begun = folder.with_name(f"{folder.name}-partial")
    while not store.is_complete(stage.kind, stage.fingerprint):
        if until_begun and begun.is_dir():
            return False
        time.sleep(POLL_SECONDS)
    return True


def _publish(
    recipe: Runnable, store: Store, result: RunResult, report: Stage | None
) -> Path | None:
    """Write `runs/<name>/run.json` and put the report beside it."""
    import shutil

    folder = store.root / "runs" / recipe.name
    stages: list[Mapping[str, Any]] = [
        {key: row[key] for key in ("kind", "title", "fingerprint")} for row in result.stages
    ]
    content = {"name": recipe.name, "recipe": recipe.model_dump(mode="json"), "stages": stages}
    write_json(folder / "run.json", content)
    if report is None:
        return None
    source, target = store.folder(report.kind, report.fingerprint), folder / "report"
    marker = target / "MANIFEST.json"
    wanted = (source / "MANIFEST.json").read_bytes()
    if not marker.is_file() or marker.read_bytes() != wanted:
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
    shutil.copyfile(target / "results.json", folder / "results.json")
    return target / "index.html"
