"""The stages of floors that no model answers: the most frequent answer, the nearest picture's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.data.samples import read_samples
from limbeck.errors import UsageError
from limbeck.graph.core import Graph
from limbeck.graph.models import untrained
from limbeck.graph.teacher import TeacherOf, answering
from limbeck.recipe import Arm
from limbeck.recipe.recipe import NEAREST_NEIGHBOUR
from limbeck.recipe.sections import ModelSection
from limbeck.stages import Stage

Inputs = Mapping[str, Path]


def floor_stage(graph: Graph, arm: Arm, teacher: TeacherOf) -> Stage:
    """What a floor answers, as a stage of predictions."""
    if arm.name == NEAREST_NEIGHBOUR:
        return _nearest_neighbour_stage(graph, arm, teacher)
    settings, splits = graph.recipe.evaluate, graph.recipe.label.splits

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.evaluate.most_frequent import most_frequent

        return most_frequent(
            output,
            samples=read_samples(inputs["data"], settings.split, settings.limit),
            known=read_samples(inputs["data"], splits),
        )

    identity = _identity(graph)
    return graph.add(Stage("predictions", arm.id, "evaluate", identity, {"data": graph.data}, make))


def _nearest_neighbour_stage(graph: Graph, arm: Arm, teacher: TeacherOf) -> Stage:
    settings, splits = graph.recipe.evaluate, graph.recipe.label.splits
    looking = _looking(graph, teacher)

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.evaluate.nearest_neighbour import nearest_neighbour

        section = looking.located(inputs, "model")
        assert isinstance(section, ModelSection), "of a backend that runs a model here"
        return nearest_neighbour(
            output,
            section=section,
            samples=read_samples(inputs["data"], settings.split, settings.limit),
            known=read_samples(inputs["data"], splits),
            data=inputs["data"],
            device=graph.device,
        )

    identity = {**_identity(graph), "looks": looking.identity}
    reads = {"data": graph.data, **looking.reads("model")}
    return graph.add(Stage("predictions", arm.id, "evaluate", identity, reads, make))


def _looking(graph: Graph, teacher: TeacherOf) -> TeacherOf:
    """Whose vision tower says which pictures are near.

    Raises:
        UsageError: the teacher is asked for, and it is not one model that runs here.
    """
    wanted = graph.recipe.evaluate.neighbour_features
    if wanted == "teacher" or (wanted == "auto" and teacher.model is not None):
        if teacher.model is None:
            raise UsageError(
                "the teacher does not run here as one model, and shows no features of pictures",
                where="evaluate.neighbour_features",
                mend="set it to baseline",
            )
        return teacher
    baseline = Arm("baseline", graph.recipe.seeds[0], graph.recipe)
    return answering(untrained(graph, baseline, teacher))


def _identity(graph: Graph) -> dict[str, Any]:
    settings = graph.recipe.evaluate
    return {
        "answers_of": graph.recipe.label.splits,
        "evaluate": settings.model_dump(mode="json", include={"split", "limit"}),
    }
