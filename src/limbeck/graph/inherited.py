"""The stage that makes a student of its teacher's layers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.data.samples import read_samples
from limbeck.errors import UsageError
from limbeck.graph.core import Graph
from limbeck.recipe.sections import Inherit, Student
from limbeck.stages import MODEL, ModelOf, Stage


def inherited_model(
    graph: Graph, section: Student, inherit: Inherit, teacher: ModelOf | None
) -> ModelOf:
    """A student before training that is made of its teacher's layers.

    Raises:
        UsageError: the teacher's weights are not here.
    """
    if teacher is None:
        raise UsageError(
            "the teacher's weights are not on this machine",
            where="student.inherit",
            mend="use teacher.backend: transformers, or name a student.model",
        )
    by_influence = any(
        part is not None and part.rule == "influence" and part.listed is None
        for part in (inherit.language, inherit.vision)
    )

    def make(output: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
        from limbeck.models.inherit import inherit_model

        return inherit_model(
            inherit,
            teacher.located(teacher.section, inputs, "teacher"),
            read_samples(inputs["data"], "train") if by_influence else [],
            inputs.get("data", output),
            output / MODEL,
            device=graph.device,
        )

    fields = inherit.model_dump(mode="json", exclude=None if by_influence else {"samples"})
    identity = {"inherit": fields, "teacher": teacher.identity()}
    reads = {**({"data": graph.data} if by_influence else {}), **teacher.reads("teacher")}
    stage = Stage("models", "student of the teacher's layers", "train", identity, reads, make)
    return ModelOf(section, graph.add(stage), MODEL, graph.adapter(section))
