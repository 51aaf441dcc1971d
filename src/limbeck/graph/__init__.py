"""From a recipe to its stages: who reads whom, and what identifies each.

Nothing here loads a model; the functions that do are imported when a stage is made.
"""

from __future__ import annotations

from limbeck.graph.core import Graph
from limbeck.graph.fidelity import fidelity_stages
from limbeck.graph.floors import floor_stage
from limbeck.graph.judging import judge_stage
from limbeck.graph.measurement import (
    benchmark_stage,
    evaluation_stage,
    is_benchmarked,
    predictions_stage,
    report_stage,
)
from limbeck.graph.public import public_stage
from limbeck.graph.sides import TrainingSides
from limbeck.recipe import Recipe

__all__ = ["Graph", "graph_of"]


def graph_of(recipe: Recipe) -> Graph:
    """All stages of a recipe, in the order in which they can be made.

    Raises:
        UsageError: the recipe asks for what its own settings cannot give.
    """
    graph = Graph(recipe)
    sides = TrainingSides(graph)
    labels, teacher = sides.base.labels, sides.base.teacher
    models = [(arm, sides.of(arm).answerer(arm)) for arm in graph.arms]
    graph.models = models
    predictions = [
        (
            arm,
            predictions_stage(graph, arm, model, sides.of(arm).held_out)
            if model
            else floor_stage(graph, arm, teacher),
        )
        for arm, model in models
    ]
    fidelity = fidelity_stages(graph, teacher, models, predictions)
    evaluation = evaluation_stage(graph, predictions, fidelity)
    judge = judge_stage(graph, predictions, teacher)
    public = public_stage(graph, models)
    benchmarks = {
        arm.id: benchmark_stage(graph, arm, model)
        for arm, model in models
        if model is not None and is_benchmarked(graph, arm, model)
    }
    report_stage(graph, models, labels, evaluation, benchmarks, judge, public)
    return graph
