"""The stages that measure: predictions, evaluation, benchmark, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.data.samples import read_samples
from limbeck.graph.core import Graph
from limbeck.graph.models import teacher_identity
from limbeck.recipe import Arm
from limbeck.recipe.sections import ModelSection
from limbeck.stages import ModelOf, Stage
from limbeck.store import Store
from limbeck.teachers import Teacher
from limbeck.teachers.transformers import Transformers

Inputs = Mapping[str, Path]


def answering(graph: Graph, model: ModelOf | None, inputs: Inputs) -> Teacher:
    """Any model as something that answers samples."""
    if model is None:
        return graph.teacher
    located = model.located(model.section, inputs, "model")
    fields = {name: getattr(located, name) for name in ModelSection.model_fields}
    return Transformers.model_validate({"backend": "transformers", **fields})


def predictions_stage(graph: Graph, arm: Arm, model: ModelOf | None) -> Stage:
    """Let one model answer the evaluation samples."""
    settings = graph.recipe.evaluate

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.evaluate.predict import predict

        return predict(
            output,
            model=answering(graph, model, inputs),
            samples=read_samples(inputs["data"], settings.split, settings.limit),
            data=inputs["data"],
            settings=settings,
            device=graph.device,
            responses=graph.responses,
        )

    identity = {
        "model": teacher_identity(graph, model),
        "evaluate": settings.model_dump(
            mode="json", include={"split", "limit", "max_new_tokens", "batch_size"}
        ),
    }
    reads = {"data": graph.data, **(model.reads("model") if model else {})}
    return graph.add(Stage("predictions", arm.id, "evaluate", identity, reads, make))


def evaluation_stage(graph: Graph, predictions: Sequence[tuple[Arm, Stage]]) -> Stage:
    """Score the answers of all models."""
    settings = graph.recipe.evaluate
    arms = [(arm.id, arm.name, arm.seed) for arm, _ in predictions]

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.evaluate.stage import evaluate

        return evaluate(
            output,
            models=[(*arm, inputs[arm[0]]) for arm in arms],
            samples=read_samples(inputs["data"], settings.split, settings.limit),
            settings=settings,
        )

    identity = {
        "arms": arms,
        "evaluate": settings.model_dump(
            mode="json",
            include={"split", "limit", "metrics", "bootstrap", "confidence", "seed"},
        ),
    }
    reads = {"data": graph.data, **{arm.id: stage for arm, stage in predictions}}
    return graph.add(Stage("evaluation", "scores", "evaluate", identity, reads, make))


def benchmark_stage(graph: Graph, arm: Arm, model: ModelOf) -> Stage:
    """Time one model, in a process of its own."""
    from limbeck.benchmark.machine import machine

    settings = graph.recipe.benchmark
    device_type = graph.device.partition(":")[0]  # every rank must find the same fingerprint

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.benchmark.stage import benchmark_model

        return benchmark_model(
            model.located(model.section, inputs, "model"),
            settings,
            inputs["data"],
            output,
            device=graph.device,
        )

    identity = {
        "model": model.identity(),
        "benchmark": settings.model_dump(mode="json", exclude={"models"}),
        "machine": machine(device_type, threads=settings.threads),
    }
    reads = {"data": graph.data, **model.reads("model")}
    return graph.add(Stage("benchmark", arm.id, "benchmark", identity, reads, make))


def report_stage(
    graph: Graph,
    models: Sequence[tuple[Arm, ModelOf | None]],
    labels: Stage,
    evaluation: Stage,
    benchmarks: Mapping[str, Stage],
) -> None:
    """Write the report from what the other stages left on disk."""
    recipe, stages, store = graph.recipe, list(graph.stages), Store(Path(graph.recipe.work))
    trained = {arm.id: m.stage for arm, m in models if arm.trained and m and m.stage}

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.report.write import ReportInputs, ReportModel, write_report

        listed = [
            ReportModel(
                arm.id,
                arm.name,
                arm.seed,
                inputs.get(f"training/{arm.id}"),
                inputs.get(f"benchmark/{arm.id}"),
            )
            for arm, _ in models
        ]
        return write_report(
            output,
            ReportInputs(
                name=recipe.name,
                recipe=recipe.model_dump(mode="json"),
                data=inputs["data"],
                labels=inputs["labels"],
                evaluation=inputs["evaluation"],
                models=listed,
                served_teacher=graph.teacher.is_served,
                stages=[_made(store, stage) for stage in stages],
            ),
        )

    reads = {
        "data": graph.data,
        "labels": labels,
        "evaluation": evaluation,
        **{f"training/{name}": stage for name, stage in trained.items()},
        **{f"benchmark/{name}": stage for name, stage in benchmarks.items()},
    }
    identity = {"recipe": recipe.model_dump(mode="json", exclude={"work"})}
    graph.add(Stage("report", recipe.name, "report", identity, reads, make))


def _made(store: Store, stage: Stage) -> dict[str, Any]:
    """A finished stage as the report's provenance shows it."""
    seconds = store.manifest(stage.kind, stage.fingerprint)["seconds"]
    return {
        "kind": stage.kind,
        "title": stage.title,
        "fingerprint": stage.fingerprint,
        "seconds": seconds,
    }


def is_benchmarked(graph: Graph, arm: Arm) -> bool:
    """Whether an arm's model is timed: the first seed of each, as seeds have equal cost."""
    wanted = graph.recipe.benchmark.models
    first = next(other for other in graph.arms if other.name == arm.name)
    return (wanted is None or arm.name in wanted) and first == arm
