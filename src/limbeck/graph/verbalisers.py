"""The stages that teach layers to speak: the first of verbalised distillation, for each model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.data.labels import read_labels
from limbeck.graph.core import Graph
from limbeck.graph.initial import training_identity
from limbeck.graph.labels import first_samples
from limbeck.graph.teacher import TeacherOf, answering
from limbeck.losses.targets import Targets
from limbeck.losses.verbalised import Verbalised
from limbeck.recipe import Arm
from limbeck.stages import Stage
from limbeck.teachers.specialised import Prompting


def of_student(graph: Graph, arm: Arm, loss: Verbalised, model: Any, labels: Stage) -> Stage:
    """Verbalisers of an arm's student before training."""
    title, seed = f"{arm.id} before training", arm.seed or 0
    return _stage(graph, loss, answering(model), loss.student_layers, labels, title, seed)


def of_teacher(graph: Graph, loss: Verbalised, teacher: TeacherOf, labels: Stage) -> Stage:
    """Verbalisers of the teacher, and its head beside them; arms and seeds share them."""
    return _stage(graph, loss, teacher, loss.teacher_layers, labels, "teacher", None)


def _stage(
    graph: Graph,
    loss: Verbalised,
    model: TeacherOf,
    layers: Targets,
    labels: Stage,
    title: str,
    seed: int | None,
) -> Stage:
    weights = model.model
    assert weights is not None, "a teacher that shows inner states is a model here"

    def make(output: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
        from limbeck.training.batches import Example
        from limbeck.training.verbalising import train_verbalisers

        texts = {row.sample_id: row.text for row in read_labels(inputs["labels"]) if row.valid}
        prompting = Prompting.of(model.teacher, inputs["data"])
        samples = first_samples(graph.recipe, inputs["data"])
        return train_verbalisers(
            output,
            section=weights.located(weights.section, inputs, "model"),
            layers=layers,
            init=loss.init,
            training=loss.verbalisers,
            examples=[
                Example(prompting.ask(sample), texts[sample.id], "teacher")
                for sample in samples
                if sample.id in texts
            ],
            data=inputs["data"],
            seed=seed or 0,
            device=graph.device,
            title=f"verbalisers of {title}",
            with_head=seed is None,
        )

    identity = {
        "model": model.identity,
        "layers": layers,
        "init": loss.init,
        "training": training_identity(loss.verbalisers),
        "seed": seed,
    }
    reads = {"data": graph.data, "labels": labels, **model.reads("model")}
    stage = Stage("verbalisers", title, "train", identity, reads, make, collective=True)
    return graph.add(stage)
