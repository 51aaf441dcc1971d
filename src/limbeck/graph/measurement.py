"""The stages that measure: predictions, evaluation, benchmark, report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

from limbeck.data.samples import read_samples
from limbeck.graph.ablation import ablation_of, costs_as_the_base
from limbeck.graph.core import Graph
from limbeck.graph.models import trainings_behind
from limbeck.graph.teacher import TeacherOf, require_one_model
from limbeck.metrics import Metric
from limbeck.recipe import Arm
from limbeck.recipe.recipe import has_cost
from limbeck.stages import Stage
from limbeck.store import Store
from limbeck.teachers.specialised import Prompting

Inputs = Mapping[str, Path]


def predictions_stage(
    graph: Graph, arm: Arm, model: TeacherOf, held_out: Stage | None = None
) -> Stage:
    """Let one model answer the evaluation samples, after `held_out` found them unseen by it."""
    settings = graph.recipe.evaluate

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.evaluate.predict import predict

        return predict(
            output,
            model=model.located(inputs, "model"),
            samples=read_samples(inputs["data"], settings.split, settings.limit),
            data=inputs["data"],
            settings=settings,
            device=graph.device,
            responses=graph.responses,
            blank_pictures=arm.blanked,
        )

    identity = {
        "model": model.identity,
        "evaluate": settings.model_dump(
            mode="json", include={"split", "limit", "max_new_tokens", "batch_size", "share_prefix"}
        ),
    }
    if arm.blanked:
        identity["blank_pictures"] = True
    reads = {"data": graph.data, **model.reads("model")}
    if held_out is not None:
        reads["held_out"] = held_out
    return graph.add(Stage("predictions", arm.id, "evaluate", identity, reads, make))


def evaluation_stage(
    graph: Graph, predictions: Sequence[tuple[Arm, Stage]], fidelity: Mapping[str, Stage]
) -> Stage:
    """Score the answers of all models; `fidelity` has the stages of those compared by tokens."""
    settings, design = graph.recipe.evaluate, graph.design
    arms = [(arm.id, arm.name, arm.seed) for arm, _ in predictions]

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.evaluate.stage import evaluate

        return evaluate(
            output,
            models=[(*arm, inputs[arm[0]]) for arm in arms],
            samples=read_samples(inputs["data"], settings.split, settings.limit),
            settings=settings,
            fidelity={name: inputs[f"fidelity/{name}"] for name in fidelity},
            ablation=ablation_of(design) if design else None,
        )

    identity: dict[str, Any] = {
        "arms": arms,
        "evaluate": settings.model_dump(
            mode="json",
            include={"split", "limit", "metrics", "bootstrap", "confidence", "seed"},
        ),
    }
    metrics = cast(Sequence[Metric], settings.metrics)
    files = {one.key: graph.identify(one.content_key) for one in metrics}
    if read := {key: content for key, content in files.items() if content is not None}:
        identity["metrics_read"] = read
    if design is not None:
        identity["ablation"] = asdict(design)
    reads = {"data": graph.data, **{arm.id: stage for arm, stage in predictions}}
    reads |= {f"fidelity/{name}": stage for name, stage in fidelity.items()}
    return graph.add(Stage("evaluation", "scores", "evaluate", identity, reads, make))


def benchmark_stage(graph: Graph, arm: Arm, model: TeacherOf) -> Stage:
    """Time one model, in a process of its own."""
    from limbeck.benchmark.machine import machine

    settings = graph.recipe.benchmark
    device_type = graph.device.partition(":")[0]  # every rank must find the same fingerprint
    timed = require_one_model(model)

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.benchmark.stage import benchmark_model

        return benchmark_model(
            timed.located(timed.section, inputs, "model"),
            settings,
            inputs["data"],
            output,
            device=graph.device,
            ask=Prompting.of(model.teacher, inputs["data"]).ask,
        )

    identity = {
        "model": model.identity,
        "benchmark": settings.model_dump(mode="json", exclude={"models"}),
        "machine": machine(device_type, threads=settings.threads),
    }
    reads = {"data": graph.data, **model.reads("model")}
    return graph.add(Stage("benchmark", arm.id, "benchmark", identity, reads, make))


def report_stage(
    graph: Graph,
    models: Sequence[tuple[Arm, TeacherOf | None]],
    labels: Stage,
    evaluation: Stage,
    benchmarks: Mapping[str, Stage],
    judge: Stage | None = None,
    public: Stage | None = None,
) -> None:
    """Write the report from what the other stages left on disk."""
    recipe, stages, store = graph.recipe, list(graph.stages), Store(Path(graph.recipe.work))
    trained = {
        arm.id: trainings_behind(m.model.stage)
        for arm, m in models
        if arm.trained and m and m.model and m.model.stage
    }

    speaking = {f"verbalisers/{s.fingerprint}": s for s in stages if s.kind == "verbalisers"}

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.report.write import ReportInputs, ReportModel, write_report

        listed = [
            ReportModel(
                arm.id,
                arm.name,
                arm.seed,
                [inputs[f"training/{arm.id}/{n}"] for n, _ in enumerate(trained.get(arm.id, ()))],
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
                verbalisers={stage.title: inputs[name] for name, stage in speaking.items()},
                judge=inputs.get("judge"),
                public=inputs.get("public"),
                served_teacher=graph.teacher.is_served,
                stages=[_made(store, stage) for stage in stages],
                ablation=graph.design,
            ),
        )

    reads = {
        "data": graph.data,
        "labels": labels,
        "evaluation": evaluation,
        **{
            f"training/{name}/{number}": stage
            for name, chain in trained.items()
            for number, stage in enumerate(chain)
        },
        **{f"benchmark/{name}": stage for name, stage in benchmarks.items()},
        **speaking,
        **({"judge": judge} if judge else {}),
        **({"public": public} if public else {}),
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


def is_benchmarked(graph: Graph, arm: Arm, model: TeacherOf) -> bool:
    """Whether an arm's model is timed: the first seed of each, as seeds have equal cost.

    A teacher that is served, or several, is left out unless it is listed, which is then refused. Of
    an ablation's points those are timed whose model is not built like the recipe's student.
    """
    wanted = graph.recipe.benchmark.models
    first = next(other for other in graph.arms if other.name == arm.name)
    if not has_cost(arm.name) or first != arm:
        return False
    if wanted is None and costs_as_the_base(graph.design, arm.name):
        return False
    return model.model is not None if wanted is None else arm.name in wanted
