"""The stage that keeps the teacher's inner states, for losses that compare them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.graph.core import Graph
from limbeck.graph.labels import first_samples
from limbeck.graph.teacher import TeacherOf
from limbeck.losses.feature_loss import FeatureLoss
from limbeck.recipe.sections import Student
from limbeck.records import ModelShape, Tap
from limbeck.stages import ModelOf, Stage

NOT_THE_TEACHERS = {
    *("weight", "target", "measure", "project", "relation", "matching", "search_range", "order"),
    *("adaptive_temperature", "temperature_rule", "scale", "init", "verbalisers"),
}
"""Fields of a loss that change nothing of what is read from the teacher."""


def features_stage(
    graph: Graph,
    loss: FeatureLoss,
    section: Student,
    initial: ModelOf,
    labels: Stage,
    teacher: TeacherOf,
) -> Stage:
    """Read what a loss compares from the teacher; arms and seeds share it.

    Args:
        graph: of the recipe.
        loss: on inner states.
        section: the student.
        initial: the student before training, with the first seed: all seeds have one shape.
        labels: along whose answers.
        teacher: whose states.
    """
    settings = graph.recipe.label
    # A rule or list that counts the student's layers cannot be read without the student's shape.
    needs_student = getattr(loss, "layers", "last") != "last" or loss.needs_verbalisers

    def make(output: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
        from limbeck.labelling.features import cache_features

        own = _shape(initial.located(section, inputs, "initial")) if needs_student else None

        def taps_of(shape: ModelShape) -> list[Tap]:
            return loss.teacher_taps(own or shape, shape)

        return cache_features(
            output,
            teacher=teacher.located(inputs, "teacher"),
            samples=first_samples(graph.recipe, inputs["data"]),
            data=inputs["data"],
            labels=inputs["labels"],
            taps_of=taps_of,
            batch_size=settings.batch_size,
            device=graph.device,
        )

    identity = {
        "teacher": teacher.identity,
        "reads": loss.model_dump(mode="json", exclude=NOT_THE_TEACHERS),
        "student": initial.identity() if needs_student else None,
    }
    reads = {"data": graph.data, "labels": labels, **teacher.reads("teacher")}
    if needs_student:
        reads |= initial.reads("initial")
    kind = str(identity["reads"]["kind"])
    return graph.add(Stage("features", kind, "train", identity, reads, make))


def _shape(section: Student) -> ModelShape:
    from transformers import AutoConfig

    from limbeck.models.source import model_folder
    from limbeck.models.taps import shape_of

    assert section.model is not None, "located"
    folder = model_folder(section.model, section.revision)
    options = {"local_files_only": True, "trust_remote_code": section.trust_remote_code}
    return shape_of(AutoConfig.from_pretrained(folder, **options))
