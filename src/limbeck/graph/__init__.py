"""From a recipe to its stages: who reads whom, and what identifies each.

Nothing here loads a model; the functions that do are imported when a stage is made.
"""

from __future__ import annotations

from limbeck.graph.core import Graph
from limbeck.graph.fidelity import fidelity_stages
from limbeck.graph.floors import floor_stage
from limbeck.graph.labels import label_stage
from limbeck.graph.measurement import (
    benchmark_stage,
    evaluation_stage,
    is_benchmarked,
    predictions_stage,
    report_stage,
)
from limbeck.graph.models import data_stage, model_of
from limbeck.graph.teacher import teacher_of
from limbeck.recipe import Recipe

__all__ = ["Graph", "graph_of"]


def graph_of(recipe: Recipe) -> Graph:
    """All stages of a recipe, in the order in which they can be made.

    Raises:
        UsageError: the recipe asks for what its own settings cannot give.
    """
    graph = Graph(recipe)
    graph.data = graph.add(data_stage(graph))
    teacher = teacher_of(graph, graph.teacher)
    labels = label_stage(graph, teacher)
    models = [(arm, model_of(graph, arm, teacher, labels)) for arm in graph.arms]
    predictions = [
        (
            arm,
            predictions_stage(graph, arm, model) if model else floor_stage(graph, arm, teacher),
        )
        for arm, model in models
    ]
    fidelity = fidelity_stages(graph, teacher, models, predictions)
    evaluation = evaluation_stage(graph, predictions, fidelity)
    benchmarks = {
        arm.id: benchmark_stage(graph, arm, model)
        for arm, model in models
        if model is not None and is_benchmarked(graph, arm, model)
    }
    report_stage(graph, models, labels, evaluation, benchmarks)
    return graph
