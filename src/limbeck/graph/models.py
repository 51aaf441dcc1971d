"""The stages that make data, labels and students: what each reads, and what identifies it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from limbeck.data.samples import read_samples
from limbeck.data.sources import Source
from limbeck.graph.core import Graph
from limbeck.graph.inherited import inherited_model
from limbeck.graph.initial import initial_model, training_identity
from limbeck.graph.teacher import STUDENT, TeacherOf, answering
from limbeck.losses import Loss
from limbeck.recipe import Arm
from limbeck.stages import ModelOf, Stage

Inputs = Mapping[str, Path]


def data_stage(graph: Graph) -> Stage:
    """Read, check and store the data set."""
    source = cast(Source, graph.recipe.data)

    def make(output: Path, _: Inputs) -> dict[str, Any]:
        from limbeck.data.prepare import prepare

        return prepare(source, output)

    identity = {
        "source": source.model_dump(mode="json"),
        "content": graph.identify(source.content_key),
    }
    return Stage("data", source.model_dump()["source"], "data", identity, {}, make)


def label_stage(graph: Graph, teacher: TeacherOf) -> Stage:
    """Let the teacher answer, and keep its distributions."""
    settings = graph.recipe.label

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.labelling import label

        return label(
            output,
            teacher=teacher.located(inputs, "teacher"),
            samples=read_samples(inputs["data"], settings.split, settings.limit),
            data=inputs["data"],
            settings=settings,
            key=teacher.key(inputs["data"]),
            device=graph.device,
            responses=graph.responses,
        )

    fields = settings.model_dump(mode="json", exclude={"workers"})
    if settings.signal != "top_k":  # what only that cache depends on
        del fields["top_k"], fields["temperatures"]
    if settings.signal == "live":
        fields["signal"] = "none"
    identity = {"teacher": teacher.identity, "label": fields}
    reads = {"data": graph.data, **teacher.reads("teacher")}
    stage = Stage("labels", settings.split, "label", identity, reads, make, collective=True)
    return graph.add(stage)


def model_of(graph: Graph, arm: Arm, teacher: TeacherOf, labels: Stage) -> TeacherOf:
    """What answers for an arm: the teacher, the student before training, or a trained student."""
    if arm.name == "teacher":
        return teacher
    section, title = arm.recipe.student, f"student before training, seed {arm.seed}"
    if section.inherit is not None:
        initial = inherited_model(graph, section, section.inherit, teacher.model)
    else:
        initial = initial_model(graph, section, arm.seed or 0, title, "train")
    trained = student(graph, arm, initial, teacher, labels) if arm.trained else initial
    return answering(trained)


def student(graph: Graph, arm: Arm, initial: ModelOf, teacher: TeacherOf, labels: Stage) -> ModelOf:
    """Train an arm's student."""
    recipe, section = arm.recipe, arm.recipe.student
    losses = cast(Sequence[Loss], recipe.losses)
    live = recipe.label.signal == "live" and any(loss.needs_signal for loss in losses)

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.training.stage import train_student

        return train_student(
            output,
            section=initial.located(section, inputs, "initial"),
            losses=losses,
            training=recipe.training,
            labelling=recipe.label,
            teacher=teacher.located(inputs, "teacher") if live else graph.teacher,
            samples=read_samples(inputs["data"], recipe.label.split, recipe.label.limit),
            data=inputs["data"],
            labels=inputs["labels"],
            cache_key=teacher.key(inputs["data"]),
            seed=arm.seed or 0,
            device=graph.device,
            title=arm.id,
        )

    identity = {
        "model": initial.identity(),
        "adapter": section.adapter.model_dump(mode="json") if section.adapter else None,
        "freeze": sorted(section.freeze),
        "losses": [loss.model_dump(mode="json") for loss in losses],
        "training": training_identity(recipe.training),
        "seed": arm.seed,
        "live_teacher": teacher.identity if live else None,
    }
    reads = {"data": graph.data, "labels": labels, **initial.reads("initial")}
    if live:
        reads |= teacher.reads("teacher")
    stage = Stage("student", arm.id, "train", identity, reads, make, collective=True)
    return ModelOf(section.model_copy(update={"adapter_path": None}), graph.add(stage), STUDENT)
