"""The stages that label: the teacher's answers, and those of the rounds in which data grows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.data.labels import read_labels
from limbeck.data.samples import read_samples
from limbeck.graph.checks import check_listed_examples
from limbeck.graph.core import Graph
from limbeck.graph.teacher import TeacherOf
from limbeck.labelling.rounds import FIRST_ROUND, grown_labels, portion
from limbeck.recipe import Arm, Recipe
from limbeck.recipe.sections import Labelling
from limbeck.records import Sample
from limbeck.stages import Command, Stage

if TYPE_CHECKING:
    from limbeck.training.stage import LabelFolder

Inputs = Mapping[str, Path]


@dataclass(frozen=True)
class Labelled:
    """The label stage of a round in which data grows, and who answered."""

    number: int
    stage: Stage
    labeller: TeacherOf

    @property
    def name(self) -> str:
        """Under which a training reads it."""
        return f"labels/{self.number}"


def label_stage(graph: Graph, teacher: TeacherOf) -> Stage:
    """Let the teacher answer, and keep its distributions."""
    recipe = graph.recipe
    return _label_stage(
        graph,
        teacher,
        recipe.label,
        lambda data: first_samples(recipe, data),
        title=" + ".join(recipe.label.splits),
        command="label",
    )


def round_stage(graph: Graph, arm: Arm, labeller: TeacherOf, number: int) -> Labelled:
    """Let a round's labeller answer its part of the unlabelled pool."""
    recipe, grow = arm.recipe, arm.recipe.grow
    assert grow is not None
    # A student may be wrong often; what is unfit or unsure is left out, and counted.
    checks = recipe.label.checks.model_copy(update={"max_unfit_share": 1.0})
    update = {"split": grow.split, "limit": None, "answers": "generated", "checks": checks}
    # The pool's references are never looked at, whether it has any or not.
    settings = recipe.label.model_copy(update={**update, "gold_share": None})

    def samples_of(data: Path) -> list[Sample]:
        pool = read_samples(data, grow.split)
        return portion(pool, first_samples(recipe, data), grow, number)

    by_student = grow.labeller == "student"
    who = f"{arm.id} round {number - 1}" if by_student else "teacher"
    stage = _label_stage(
        graph,
        labeller,
        settings,
        samples_of,
        title=f"{grow.split}, round {number} by {who}",
        command="train" if by_student else "label",
        confident=grow.keep is not None,
        further={
            "part": number,
            "of": grow.model_dump(mode="json", include={"samples_per_round", "seed"}),
            "without": recipe.label.model_dump(mode="json", include={"split", "limit"}),
        },
    )
    return Labelled(number, stage, labeller)


def grown_folders(
    recipe: Recipe, first: LabelFolder, rounds: Sequence[Labelled], inputs: Inputs
) -> tuple[list[LabelFolder], list[dict[str, Any]]]:
    """What a training takes from the rounds before it, and what became of their answers."""
    from limbeck.training.stage import LabelFolder

    assert recipe.grow is not None
    folders = [inputs[one.name] for one in rounds]
    fit = sum(row.valid for row in read_labels(first.folder))
    grown = grown_labels([read_labels(folder) for folder in folders], fit, recipe.grow)
    pool = {sample.id: sample for sample in read_samples(inputs["data"], recipe.grow.split)}
    found = [
        LabelFolder(folder, [pool[i] for i in ids], one.labeller.key(inputs["data"]))
        for one, folder, ids in zip(rounds, folders, grown.chosen, strict=True)
    ]
    who = recipe.grow.labeller
    facts = [{"round": FIRST_ROUND, "labeller": "teacher", "trained_on": fit}]
    facts += [{**one, "labeller": who} for one in grown.facts]
    return [one for one in found if one.samples], facts


def first_samples(recipe: Recipe, data: Path) -> list[Sample]:
    """The samples of the first labels."""
    return read_samples(data, recipe.label.splits, recipe.label.limit)


def _label_stage(
    graph: Graph,
    labeller: TeacherOf,
    settings: Labelling,
    samples_of: Callable[[Path], list[Sample]],
    *,
    title: str,
    command: Command,
    confident: bool = False,
    further: Mapping[str, Any] | None = None,
) -> Stage:
    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.labelling import label

        check_listed_examples(graph.recipe, labeller.teacher, inputs["data"])
        return label(
            output,
            teacher=labeller.located(inputs, "teacher"),
            samples=samples_of(inputs["data"]),
            data=inputs["data"],
            settings=settings,
            key=labeller.key(inputs["data"]),
            device=graph.device,
            responses=graph.responses,
            confident=confident,
        )

    fields = settings.model_dump(mode="json", exclude={"workers"})
    if settings.signal != "top_k":  # what only that cache depends on
        del fields["top_k"], fields["temperatures"]
    if settings.signal == "live":
        fields["signal"] = "none"
    identity: dict[str, Any] = {"teacher": labeller.identity, "label": fields}
    if further is not None:
        identity |= {"confident": confident, **further}
    reads = {"data": graph.data, **labeller.reads("teacher")}
    return graph.add(Stage("labels", title, command, identity, reads, make, collective=True))
