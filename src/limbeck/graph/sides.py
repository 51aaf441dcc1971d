"""What an arm learns from: its data, its teacher and the teacher's labels.

Most arms share the recipe's; one that overrides `data`, `teacher` or `label` has stages of its own,
as far as they differ. Every arm is evaluated on the recipe's own data, so that what an arm learns
from must hold nothing of it that the recipe's own training data does not hold as well.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from limbeck.data.samples import read_samples
from limbeck.graph.core import Graph
from limbeck.graph.labels import label_stage
from limbeck.graph.models import data_stage, model_of
from limbeck.graph.teacher import TeacherOf, teacher_of
from limbeck.recipe import Arm, Recipe
from limbeck.recipe.sections import FineTune
from limbeck.stages import Stage
from limbeck.teachers import Teacher

SIDE = ("data", "teacher", "label")
"""The sections that decide what an arm learns from."""


@dataclass(frozen=True)
class TrainingSide:
    """The graph as an arm's recipe sees it, and the stages that it learns from.

    `held_out` checks data of its own against the samples that are evaluated.
    """

    graph: Graph
    teacher: TeacherOf
    labels: Stage
    held_out: Stage | None = None

    def answerer(self, arm: Arm) -> TeacherOf | None:
        """What answers for an arm that learns from this."""
        return model_of(self.graph, arm, self.teacher, self.labels)


class TrainingSides:
    """The training sides of a recipe's arms, each made once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._known: list[tuple[Recipe, TrainingSide]] = []
        graph.data = graph.add(data_stage(graph))
        self.base = self._made(graph, None)

    def of(self, arm: Arm) -> TrainingSide:
        """An arm's side, its stages added to the graph."""
        recipe = arm.recipe
        for known, side in self._known:
            if all(getattr(known, name) == getattr(recipe, name) for name in SIDE):
                return side
        graph = copy.copy(self.graph)  # the lists of stages and problems stay shared
        graph.recipe, graph.teacher = recipe, cast(Teacher, recipe.teacher)
        if recipe.data == self.graph.recipe.data:
            return self._made(graph, None)
        graph.data = self.graph.add(data_stage(graph))
        return self._made(graph, _held_out_stage(self.graph, graph, arm))

    def _made(self, graph: Graph, held_out: Stage | None) -> TrainingSide:
        teacher = teacher_of(graph, graph.teacher)
        side = TrainingSide(graph, teacher, label_stage(graph, teacher), held_out)
        self._known.append((graph.recipe, side))
        return side


def _held_out_stage(base: Graph, own: Graph, arm: Arm) -> Stage:
    """Refuse an arm's data where training on it would show what is evaluated."""
    evaluated, base_splits = base.recipe.evaluate.split, _trained_splits(base.recipe)
    splits = _trained_splits(own.recipe)

    def make(output: Path, inputs: Mapping[str, Path]) -> dict[str, Any]:
        from limbeck.data.held_out import check_held_out

        return check_held_out(
            output,
            evaluated=read_samples(inputs["evaluated"], evaluated),
            known=read_samples(inputs["evaluated"], base_splits),
            trained=read_samples(inputs["data"], splits),
            folders=(inputs["evaluated"], inputs["data"]),
            where=f"arms.{arm.name}.data",
        )

    identity = {"evaluated": evaluated, "base": base_splits, "trained": splits}
    reads = {"evaluated": base.data, "data": own.data}
    return base.add(Stage("held_out", f"data of {arm.name}", "train", identity, reads, make))


def _trained_splits(recipe: Recipe) -> list[str]:
    """The splits that anything is trained on: by the labels, in rounds, or by the teacher."""
    found = [*recipe.label.splits]
    if recipe.grow is not None:
        found.append(recipe.grow.split)
    tune = getattr(recipe.teacher, "fine_tune", None)
    if isinstance(tune, FineTune):
        found.append(tune.split)
    return sorted(set(found))
