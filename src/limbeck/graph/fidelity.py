"""The stages that compare students with the teacher's distributions on the evaluation samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.data.samples import read_samples
from limbeck.errors import UsageError
from limbeck.graph.core import Graph
from limbeck.graph.teacher import TeacherOf
from limbeck.recipe import Arm
from limbeck.recipe.recipe import has_cost
from limbeck.records import Sample
from limbeck.stages import Stage

Inputs = Mapping[str, Path]
TEACHER = "teacher"
WHERE = "evaluate.fidelity"


def fidelity_stages(
    graph: Graph,
    teacher: TeacherOf,
    models: Sequence[tuple[Arm, TeacherOf | None]],
    predictions: Sequence[tuple[Arm, Stage]],
) -> dict[str, Stage]:
    """A stage for each model that is compared, by its arm's id; none unless the recipe asks.

    Raises:
        UsageError: the teacher is not evaluated, or cannot score answers.
    """
    settings = graph.recipe.evaluate
    if not settings.fidelity:
        return {}
    answered = next((stage for arm, stage in predictions if arm.name == TEACHER), None)
    if answered is None:
        raise UsageError(
            "needs the teacher's answers", where=WHERE, mend="list teacher in evaluate.models"
        )
    if not graph.teacher.capabilities() >= {"score", "whole_distributions"}:
        raise UsageError(
            "this teacher does not give its distributions along an answer",
            where=WHERE,
            mend="set it to false; how like its texts the others are is reported all the same",
        )
    signal = _signal_stage(graph, teacher, answered)
    return {
        arm.id: _fidelity_stage(graph, arm, model, teacher, signal, answered)
        for arm, model in models
        if model is not None and arm.name != TEACHER and has_cost(arm.name)
    }


def _signal_stage(graph: Graph, teacher: TeacherOf, answered: Stage) -> Stage:
    settings, top_k = graph.recipe.evaluate, graph.recipe.label.top_k

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.evaluate.teacher_signal import keep_teacher_signal

        return keep_teacher_signal(
            output,
            teacher=teacher.located(inputs, "teacher"),
            predictions=inputs["predictions"],
            samples=_samples(graph, inputs),
            data=inputs["data"],
            key=teacher.key(inputs["data"]),
            top_k=top_k,
            batch_size=settings.batch_size,
            device=graph.device,
        )

    identity = {"teacher": teacher.identity, "top_k": top_k, "batch_size": settings.batch_size}
    reads = {"data": graph.data, "predictions": answered, **teacher.reads("teacher")}
    title = f"{settings.split}, along the teacher's answers"
    return graph.add(Stage("teacher_signal", title, "evaluate", identity, reads, make))


def _fidelity_stage(
    graph: Graph, arm: Arm, model: TeacherOf, teacher: TeacherOf, signal: Stage, answered: Stage
) -> Stage:
    settings = graph.recipe.evaluate

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.evaluate.fidelity import compare_with_teacher

        return compare_with_teacher(
            output,
            model=model.located(inputs, "model"),
            signals=inputs["signal"],
            key=teacher.key(inputs["data"]),
            predictions=inputs["predictions"],
            samples=_samples(graph, inputs),
            data=inputs["data"],
            batch_size=settings.batch_size,
            device=graph.device,
        )

    identity = {"model": model.identity, "batch_size": settings.batch_size}
    reads = {"data": graph.data, "signal": signal, "predictions": answered, **model.reads("model")}
    return graph.add(Stage("fidelity", arm.id, "evaluate", identity, reads, make))


def _samples(graph: Graph, inputs: Inputs) -> list[Sample]:
    settings = graph.recipe.evaluate
    return read_samples(inputs["data"], settings.split, settings.limit)
