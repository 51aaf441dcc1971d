"""Whatever answers samples, with the stages that make the weights in it.

The teacher of a recipe is one; so is, in evaluation, every model that is compared with it, and a
student that labels. A teacher may be several (`backend: mixture`), each with weights of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from limbeck.data.samples import read_samples
from limbeck.errors import UsageError
from limbeck.graph.core import Graph
from limbeck.graph.initial import initial_model, training_identity
from limbeck.recipe.sections import ModelSection
from limbeck.stages import ModelOf, Stage
from limbeck.teachers import Teacher
from limbeck.teachers.specialised import Prompting, specialised
from limbeck.teachers.transformers import Transformers

STUDENT = "student"

Inputs = Mapping[str, Path]


@dataclass(frozen=True)
class TeacherOf:
    """A teacher, and the stages that make the weights in it.

    Attributes:
        teacher: as the recipe has it.
        model: its weights, of a backend that runs a model in this process.
        served: its identity, of another backend.
        members: of a teacher that is several.
    """

    teacher: Teacher
    model: ModelOf | None = None
    served: Any = None
    members: tuple[TeacherOf, ...] = ()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What can change its answers, beside the stages that it reads."""
        if self.members:
            own = {
                **self.teacher.routing(),
                "members": [member.identity for member in self.members],
            }
        elif self.model is not None:
            own = self.model.identity()
        else:
            own = self.served
        return {**own, **self.teacher.prompting_fields()}

    def reads(self, name: str) -> dict[str, Stage]:
        """The stages to read, under `name` and names below it."""
        if self.model is not None:
            return self.model.reads(name)
        return {
            key: stage
            for number, member in enumerate(self.members)
            for key, stage in member.reads(f"{name}/{number}").items()
        }

    def located(self, inputs: Inputs, name: str) -> Teacher:
        """The teacher, ready to be opened: its weights where the stages put them, its own prompt.

        Args:
            inputs: folders of the stages that were read, "data" among them.
            name: as `reads` had it.
        """
        found = self.teacher
        if self.model is not None:
            assert isinstance(found, Transformers)
            found = self.model.located(found, inputs, name).model_copy(update={"fine_tune": None})
        elif self.members:
            members = [
                member.located(inputs, f"{name}/{number}")
                for number, member in enumerate(self.members)
            ]
            found = self.teacher.with_members(members)
        return specialised(found, inputs["data"])

    def key(self, data: Path) -> dict[str, Any]:
        """What determines its distributions, beside the samples; for the cache of signals.

        Args:
            data: the data stage's folder, which the examples that it is shown come from.
        """
        made_by = [stage.fingerprint for stage in self.reads("teacher").values()]
        found: dict[str, Any] = {"teacher": self.identity, "made_by": made_by}
        prompting = [own for one in self._all() if (own := Prompting.of(one.teacher, data).key())]
        return {**found, "prompting": prompting} if prompting else found

    def _all(self) -> list[TeacherOf]:
        return [self, *(one for member in self.members for one in member._all())]


def teacher_of(graph: Graph, teacher: Teacher) -> TeacherOf:
    """A recipe's teacher, its weights built or fine-tuned by stages where it asks for that."""
    if members := teacher.members():
        return TeacherOf(teacher, members=tuple(teacher_of(graph, member) for member in members))
    if not isinstance(teacher, Transformers):
        return TeacherOf(teacher, served=graph.identify(teacher.identity))
    return TeacherOf(teacher, _weights(graph, teacher))


def answering(model: ModelOf) -> TeacherOf:
    """A student, trained or not, as something that answers samples."""
    fields = {name: getattr(model.section, name) for name in ModelSection.model_fields}
    # Not validated again: a student that inherits has no weights before its stage has made them.
    return TeacherOf(Transformers.model_construct(**fields), model)


def _weights(graph: Graph, teacher: Transformers) -> ModelOf:
    tune = teacher.fine_tune
    seed = tune.seed if tune else 0
    initial = initial_model(graph, teacher, seed, "teacher before tuning", "label")
    if tune is None:
        return initial

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.training.stage import fine_tune

        samples = read_samples(inputs["data"], tune.split, tune.limit)
        prompting = Prompting.of(teacher, inputs["data"])
        return fine_tune(
            output,
            section=initial.located(teacher, inputs, "initial"),
            settings=tune,
            samples=[prompting.ask(sample) for sample in samples],
            data=inputs["data"],
            device=graph.device,
        )

    identity = {
        "model": initial.identity(),
        "fine_tune": {
            **tune.model_dump(mode="json", exclude={"training"}),
            "training": training_identity(tune.training),
        },
        **teacher.prompting_fields(),
    }
    reads = {"data": graph.data, **initial.reads("initial")}
    stage = Stage("teacher", "fine-tuned", "label", identity, reads, make, collective=True)
    return ModelOf(teacher.model_copy(update={"adapter_path": None}), graph.add(stage), STUDENT)


def require_one_model(answerer: TeacherOf) -> ModelOf:
    """The one model in it, which can be timed.

    Raises:
        UsageError: it is served, or several.
    """
    if answerer.model is None:
        what = "a teacher that is several" if answerer.members else "a served teacher"
        raise UsageError(
            f"{what} cannot be timed like one model that runs here",
            where="benchmark.models",
            mend="list the other models there, or nothing; what a client sees of a teacher with "
            "backend: openai is timed with benchmark.served: true",
        )
    return answerer.model
