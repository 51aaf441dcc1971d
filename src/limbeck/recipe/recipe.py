"""The whole recipe: one frozen, typed value that every stage reads its part from."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Annotated

from pydantic import Field, JsonValue, SerializeAsAny, model_validator

from limbeck.errors import UsageError
from limbeck.recipe.ablation import Ablate
from limbeck.recipe.component import Component, Section, component_field
from limbeck.recipe.growth import Grow
from limbeck.recipe.phases import LossField, Phase
from limbeck.recipe.public import Public
from limbeck.recipe.sections import (
    Benchmark,
    Evaluation,
    Labelling,
    ReportSection,
    Seed,
    Student,
    Training,
)

SourceField = Annotated[
    SerializeAsAny[Component], component_field("limbeck.data.sources", "source")
]
TeacherField = Annotated[SerializeAsAny[Component], component_field("limbeck.teachers", "backend")]

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""What may become part of a file name."""
ArmName = Annotated[str, Field(pattern=NAME)]

MOST_FREQUENT = "most_frequent"
"""The arm that looks at nothing: the most frequent answer of the training samples."""
NEAREST_NEIGHBOUR = "nearest_neighbour"
"""The arm that copies: the answer of the training sample with the nearest picture."""
WITHOUT_MODEL = (MOST_FREQUENT, NEAREST_NEIGHBOUR)
"""Floors that no model answers: they cannot be blanked, and cost nothing worth measuring."""
UNTRAINED = ("teacher", "baseline", *WITHOUT_MODEL)
"""Arms without a training stage."""
BUILT_IN = (*UNTRAINED, "student", "control")
"""Arms that every recipe has."""
BLANKED = "_blanked"
"""Ends the name of an arm that is another one answering with every picture blanked."""


def sighted(name: str) -> str:
    """The arm that a blanked arm blanks; any other is its own."""
    return name.removesuffix(BLANKED)


def has_cost(name: str) -> bool:
    """Whether an arm is a model of its own, with latency and memory to measure."""
    return name not in WITHOUT_MODEL and sighted(name) == name


EARLIER_ROUND = re.compile(r"student_round[1-9][0-9]?")
"""Arms that a recipe has whose data grows: the student after an earlier round."""


class Recipe(Section):
    """A distillation from data to report; every field is read by some stage."""

    name: str = Field(pattern=NAME, description="names the run's folder")
    work: str = Field(
        default="work", min_length=1, description="folder for everything that is computed"
    )
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="auto, cpu, mps, cuda, cuda:N",
    )
    seeds: tuple[Seed, ...] = Field(
        default=(42,), min_length=1, description="each trains every arm anew"
    )
    data: SourceField = Field(description="where samples come from")
    teacher: TeacherField = Field(description="the model that is distilled")
    student: Student = Field(description="the model that is trained")
    label: Labelling = Field(default=Labelling(), description="the teacher's answers")
    losses: tuple[LossField, ...] = Field(
        min_length=1, description="terms of the objective, summed by weight"
    )
    training: Training = Field(default=Training(), description="how students are trained")
    phases: tuple[Phase, ...] = Field(
        default=(), description="trainings that follow, each from the student before it"
    )
    grow: Grow | None = Field(
        default=None, description="rounds in which unlabelled pictures are added; null: none"
    )
    evaluate: Evaluation = Field(default_factory=Evaluation, description="answers and scores")
    public: Public | None = Field(
        default=None, description="public benchmarks, by lmms-eval; null: none"
    )
    benchmark: Benchmark = Field(default=Benchmark(), description="latency, throughput and memory")
    report: ReportSection = Field(default=ReportSection(), description="the page")
    arms: dict[ArmName, dict[str, JsonValue]] = Field(
        default={}, description="more students: name -> overrides, each a dotted path and its value"
    )

    ablate: Ablate | None = Field(
        default=None, description="students from grids and lists of fields, compared; null: none"
    )

    def also_evaluating(self, names: Iterable[str]) -> Recipe:
        """The recipe with further arms among its models, after those that it lists."""
        models = tuple(dict.fromkeys([*self.evaluate.models, *names]))
        settings = self.evaluate.model_copy(update={"models": models})
        return self.model_copy(update={"evaluate": settings})

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Recipe:
        points = [] if self.ablate is None else self.ablate.all_points(self.arms)
        for name in (*self.arms, *(point.name for point in points)):
            if name in BUILT_IN or EARLIER_ROUND.fullmatch(name):
                raise UsageError(
                    "every recipe has this arm; choose another name", where=f"arms.{name}"
                )
            if sighted(name) != name:
                raise UsageError(
                    f"{BLANKED} ends the names of arms with blanked pictures",
                    where=f"arms.{name}",
                    mend="choose another name",
                )
            if name in self.arms and not points and not self._is_evaluated(name):
                raise UsageError(
                    "nothing evaluates this arm",
                    where=f"arms.{name}",
                    mend="list it in evaluate.models",
                )
        # Which rounds there are `arms_of` knows: in an arm that does not grow there are none.
        rounds = [name for name in self.evaluate.models if EARLIER_ROUND.fullmatch(name)]
        ablated = [point.name for point in points]
        known = (*BUILT_IN, *self.arms, *rounds, *ablated)
        known = (*known, *(name + BLANKED for name in known if name not in WITHOUT_MODEL))
        _subset(self.evaluate.models, known, "evaluate.models", "the known arms")
        if self.benchmark.models is not None:
            models = [name for name in (*self.evaluate.models, *ablated) if has_cost(name)]
            _subset(self.benchmark.models, models, "benchmark.models", "what is evaluated")
        _subset(self.seeds, self.seeds, "seeds", "")
        return self

    def _is_evaluated(self, name: str) -> bool:
        return bool({name, name + BLANKED} & set(self.evaluate.models))


def _subset(chosen: Sequence[object], known: Sequence[object], where: str, what: str) -> None:
    for index, item in enumerate(chosen):
        if item not in known:
            raise UsageError(
                f"{item!r} is not among {what}",
                where=f"{where}.{index}",
                mend=f"choose from {', '.join(map(str, known))}",
            )
        if item in chosen[:index]:
            raise UsageError(f"{item!r} is listed twice", where=f"{where}.{index}")
