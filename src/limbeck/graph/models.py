"""The stages that make data, models and labels: what each reads, and what identifies it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from limbeck.data.samples import read_samples
from limbeck.data.sources import Source
from limbeck.graph.core import Graph
from limbeck.graph.features import features_stage
from limbeck.graph.inherited import inherited_model
from limbeck.losses import Loss
from limbeck.losses.feature_loss import FeatureLoss
from limbeck.recipe import Arm
from limbeck.recipe.sections import ModelSection, Training
from limbeck.stages import MODEL, Command, ModelOf, Stage
from limbeck.teachers import Teacher
from limbeck.teachers.transformers import Transformers

STUDENT = "student"

WITHOUT_EFFECT = {"checkpoint_every", "workers", "tracker"}
"""Fields of `training` that change no output."""

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


def initial_model(
    graph: Graph, section: ModelSection, seed: int, title: str, command: Command
) -> ModelOf:
    """A model before any training: from the hub or a folder, built, or composed."""
    build, compose = section.build, section.compose
    if build is not None:

        def make_built(output: Path, inputs: Inputs) -> dict[str, Any]:
            from limbeck.models.build import build_model

            samples = read_samples(inputs["data"], "train")
            return build_model(build, _texts(samples), seed, output / MODEL)

        identity = {"build": build.model_dump(mode="json"), "seed": seed}
        reads = {"data": graph.data}
        stage = Stage("models", title, command, identity, reads, make_built)
        return ModelOf(section, graph.add(stage), MODEL)
    if compose is not None:
        parts = [
            graph.weights(ModelSection(model=compose.vision, revision=compose.vision_revision)),
            graph.weights(ModelSection(model=compose.language, revision=compose.language_revision)),
        ]

        def make_composed(output: Path, _: Inputs) -> dict[str, Any]:
            from limbeck.models.compose import compose_model

            return compose_model(compose, seed, output / MODEL)

        identity = {"compose": compose.model_dump(mode="json"), "parts": parts, "seed": seed}
        stage = Stage("models", title, command, identity, {}, make_composed)
        return ModelOf(section, graph.add(stage), MODEL)
    return ModelOf(section, weights=graph.weights(section))


def teacher_model(graph: Graph) -> ModelOf | None:
    """The teacher's weights, fine-tuned if the recipe says so; None for a served teacher."""
    teacher = graph.teacher
    if not isinstance(teacher, Transformers):
        return None
    tune = teacher.fine_tune
    seed = tune.seed if tune else 0
    initial = initial_model(graph, teacher, seed, "teacher before tuning", "label")
    if tune is None:
        return initial

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.training.stage import fine_tune

        return fine_tune(
            output,
            section=initial.located(teacher, inputs, "initial"),
            settings=tune,
            samples=read_samples(inputs["data"], tune.split, tune.limit),
            data=inputs["data"],
            device=graph.device,
        )

    identity = {
        "model": initial.identity(),
        "fine_tune": {
            **tune.model_dump(mode="json", exclude={"training"}),
            "training": training_identity(tune.training),
        },
    }
    reads = {"data": graph.data, **initial.reads("initial")}
    stage = Stage("teacher", "fine-tuned", "label", identity, reads, make, collective=True)
    return ModelOf(teacher, graph.add(stage), STUDENT)


def located_teacher(graph: Graph, model: ModelOf | None, inputs: Inputs) -> Teacher:
    """The teacher with its model set to the folder that holds it."""
    if model is None:
        return graph.teacher
    located = model.located(cast(Transformers, model.section), inputs, "teacher")
    return located.model_copy(update={"fine_tune": None})


def teacher_identity(graph: Graph, model: ModelOf | None) -> dict[str, Any]:
    """What can change the teacher's answers."""
    return graph.identify(graph.teacher.identity) if model is None else model.identity()


def cache_key(graph: Graph, teacher: ModelOf | None) -> dict[str, Any]:
    """What determines the teacher's distributions, beside the samples."""
    made_by = teacher.stage.fingerprint if teacher and teacher.stage else None
    return {"teacher": teacher_identity(graph, teacher), "made_by": made_by}


def label_stage(graph: Graph, teacher: ModelOf | None) -> Stage:
    """Let the teacher answer, and keep its distributions."""
    settings = graph.recipe.label

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.labelling import label

        return label(
            output,
            teacher=located_teacher(graph, teacher, inputs),
            samples=read_samples(inputs["data"], settings.split, settings.limit),
            data=inputs["data"],
            settings=settings,
            key=cache_key(graph, teacher),
            device=graph.device,
            responses=graph.responses,
        )

    fields = settings.model_dump(mode="json", exclude={"workers"})
    if settings.signal != "top_k":  # what only that cache depends on
        del fields["top_k"], fields["temperatures"]
    if settings.signal == "live":
        fields["signal"] = "none"
    identity = {"teacher": teacher_identity(graph, teacher), "label": fields}
    reads = {"data": graph.data, **(teacher.reads("teacher") if teacher else {})}
    stage = Stage("labels", settings.split, "label", identity, reads, make, collective=True)
    return graph.add(stage)


def model_of(graph: Graph, arm: Arm, teacher: ModelOf | None, labels: Stage) -> ModelOf | None:
    """The model of an arm: the teacher, the student before training, or a trained student."""
    if arm.name == "teacher":
        return teacher
    initial = untrained(graph, arm, teacher)
    return initial if not arm.trained else student(graph, arm, initial, teacher, labels)


def untrained(graph: Graph, arm: Arm, teacher: ModelOf | None) -> ModelOf:
    """An arm's student before training."""
    section, title = arm.recipe.student, f"student before training, seed {arm.seed}"
    if section.inherit is not None:
        return inherited_model(graph, section, section.inherit, teacher)
    return initial_model(graph, section, arm.seed or 0, title, "train")


def student(
    graph: Graph, arm: Arm, initial: ModelOf, teacher: ModelOf | None, labels: Stage
) -> ModelOf:
    """Train an arm's student."""
    recipe, section = arm.recipe, arm.recipe.student
    losses = cast(Sequence[Loss], recipe.losses)
    inner = [loss for loss in losses if isinstance(loss, FeatureLoss)]
    live = recipe.label.signal == "live" and any(
        loss.needs_signal or loss.reads_features for loss in losses
    )
    features = [] if live else [_features(graph, arm, loss, teacher, labels) for loss in inner]

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.training.stage import train_student

        return train_student(
            output,
            section=initial.located(section, inputs, "initial"),
            losses=losses,
            training=recipe.training,
            labelling=recipe.label,
            teacher=located_teacher(graph, teacher, inputs) if live else graph.teacher,
            samples=read_samples(inputs["data"], recipe.label.split, recipe.label.limit),
            data=inputs["data"],
            labels=inputs["labels"],
            cache_key=cache_key(graph, teacher),
            seed=arm.seed or 0,
            device=graph.device,
            title=arm.id,
            features=[inputs[f"features/{number}"] for number in range(len(features))],
        )

    identity = {
        "model": initial.identity(),
        "adapter": section.adapter.model_dump(mode="json") if section.adapter else None,
        "freeze": sorted(section.freeze),
        "losses": [loss.model_dump(mode="json") for loss in losses],
        "training": training_identity(recipe.training),
        "seed": arm.seed,
        "live_teacher": teacher_identity(graph, teacher) if live else None,
    }
    reads = {"data": graph.data, "labels": labels, **initial.reads("initial")}
    reads |= {f"features/{number}": stage for number, stage in enumerate(features)}
    if live and teacher is not None:
        reads |= teacher.reads("teacher")
    stage = Stage("student", arm.id, "train", identity, reads, make, collective=True)
    return ModelOf(section, graph.add(stage), STUDENT)


def _features(
    graph: Graph, arm: Arm, loss: FeatureLoss, teacher: ModelOf | None, labels: Stage
) -> Stage:
    """The teacher's inner states that a loss compares; one stage for all seeds."""
    assert teacher is not None, "a teacher that shows inner states is a model here"
    first = Arm(arm.name, graph.recipe.seeds[0], arm.recipe)
    initial = untrained(graph, first, teacher)

    def located(inputs: Inputs) -> Teacher:
        return located_teacher(graph, teacher, inputs)

    section = arm.recipe.student
    return features_stage(graph, loss, section, initial, labels, teacher, located)


def training_identity(training: Training) -> dict[str, Any]:
    """The training fields that can change its output."""
    return training.model_dump(mode="json", exclude=WITHOUT_EFFECT)


def _texts(samples: Sequence[Any]) -> list[str]:
    """Every text that a tokenizer made for these samples should know."""
    texts = [
        part["text"] for s in samples for m in s.messages for part in m["content"] if "text" in part
    ]
    return texts + [reference for s in samples for reference in s.references]
