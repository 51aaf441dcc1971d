"""What a stage is, and how to name the model that a stage or the hub provides.

A stage's fingerprint covers its kind, everything of the recipe that can change its output, and the
fingerprints of what it reads; two recipes that share a stage share its folder.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

from limbeck.errors import LimbeckError
from limbeck.recipe.sections import ModelSection
from limbeck.store import fingerprint

Command = Literal["data", "label", "train", "evaluate", "public", "benchmark", "report"]
COMMANDS: tuple[Command, ...] = (
    *("data", "label", "train", "evaluate", "public", "benchmark", "report"),
)

MODEL = "model"
"""Sub-folder of a stage that makes a model before any training."""

FORMAT_VERSIONS = {
    "data": 2,
    "held_out": 1,
    "models": 1,
    "teacher": 2,
    "labels": 4,
    "features": 1,
    "verbalisers": 2,
    "student": 2,
    "predictions": 1,
    "teacher_signal": 1,
    "fidelity": 1,
    "evaluation": 3,
    "judge": 1,
    "questions": 1,
    "public": 1,
    "benchmark": 2,
    "report": 6,
    "encoder_data": 1,
    "encoder_teacher": 1,
    "encoder_features": 1,
    "encoder_student": 1,
    "encoder_scores": 1,
    "encoder_cost": 1,
    "encoder_report": 1,
}
"""Raised when a stage's code changes what it writes, so that old folders are not taken for new."""

Make = Callable[[Path, Mapping[str, Path]], dict[str, Any]]
SectionType = TypeVar("SectionType", bound=ModelSection)


@dataclass(frozen=True)
class Stage:
    """One folder to be made: what goes in, what identifies it, and the function that makes it.

    `make(output, inputs)` writes into `output` and returns the manifest's summary; `inputs` maps
    the names of `reads` to finished folders. `collective` stages run on all ranks together.
    """

    kind: str
    title: str
    command: Command
    identity: Mapping[str, Any]
    reads: Mapping[str, Stage]
    make: Make = field(repr=False)
    collective: bool = False

    @cached_property
    def full_identity(self) -> dict[str, Any]:
        """What the fingerprint is made of."""
        return {
            "kind": self.kind,
            "format": FORMAT_VERSIONS[self.kind],
            "fields": dict(self.identity),
            "reads": {name: stage.fingerprint for name, stage in self.reads.items()},
        }

    @cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits; the folder's name."""
        return fingerprint(self.full_identity)


class StageList:
    """Stages, each after those that it reads, and what would prevent them from being made."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.problems: list[LimbeckError] = []

    def add(self, stage: Stage) -> Stage:
        """Keep a stage once; whoever shares one gets the same object."""
        for known in self.stages:
            if known.fingerprint == stage.fingerprint:
                return known
        self.stages.append(stage)
        return stage

    def identify(self, identify: Callable[[], Any]) -> Any:
        """What identifies something outside the work folder, or a problem of the plan."""
        try:
            return identify()
        except LimbeckError as error:
            if str(error) not in map(str, self.problems):
                self.problems.append(error)
            return {"missing": str(error)}


@dataclass(frozen=True)
class ModelOf:
    """A model to load: a section, and the stage that makes its folder.

    `weights` identifies what no stage makes: a hub id or a folder of the user's, an adapter.
    """

    section: ModelSection
    stage: Stage | None = None
    subfolder: str = ""
    weights: Any = None

    def identity(self) -> dict[str, Any]:
        """What can change the loaded model; the weights of a stage are named by `reads`."""
        fields = self.section.model_dump(
            mode="json",
            include=set(ModelSection.model_fields)
            - {*self.section.origins, "revision", "adapter_path"},
        )
        if self.weights is not None:
            fields["weights"] = self.weights
        return fields

    def reads(self, name: str) -> dict[str, Stage]:
        """The stage to read, under `name`."""
        return {} if self.stage is None else {name: self.stage}

    def located(self, section: SectionType, inputs: Mapping[str, Path], name: str) -> SectionType:
        """`section` with `model` set to the folder that the stage made.

        Its adapter is kept where the stage has not trained it in.
        """
        if self.stage is None:
            return section
        found = {
            **dict.fromkeys(section.origins),
            "model": str(inputs[name] / self.subfolder),
            "revision": None,
            "adapter_path": self.section.adapter_path,
        }
        return section.model_copy(update=found)


def device_of(asked: str) -> str:
    """The torch device that `auto` stands for, found without loading torch.

    Under torchrun every rank gets the card of its own number.
    """
    import os
    import platform

    if asked not in ("auto", "cuda"):
        return asked
    if asked == "cuda" or Path("/dev/nvidiactl").exists():
        rank = os.environ.get("LOCAL_RANK")
        return "cuda" if rank is None else f"cuda:{rank}"
    return "mps" if (platform.system(), platform.machine()) == ("Darwin", "arm64") else "cpu"
