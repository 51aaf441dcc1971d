"""READ THIS FIRST: the stages of an encoder study, what each reads, and what identifies it.

Nothing here loads a model; the functions that do are imported when a stage is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from limbeck.encoders.losses import EncoderLoss
from limbeck.encoders.recipe import EncoderArm, EncoderRecipe
from limbeck.encoders.sources import EncoderSource
from limbeck.encoders.students import EncoderStudent
from limbeck.encoders.teachers import EncoderTeacher
from limbeck.errors import UsageError
from limbeck.models.source import identity_of, model_folder
from limbeck.stages import MODEL, Stage, StageList, device_of

if TYPE_CHECKING:
    from limbeck.encoders.training import StudentJob

Inputs = Mapping[str, Path]


@dataclass(frozen=True)
class Setting:
    """A data set with a teacher, and the stages that all its students read."""

    dataset: str
    teacher: str
    options: EncoderTeacher
    data: Stage
    built: Stage | None
    features: Stage

    @property
    def name(self) -> str:
        """For titles."""
        return f"{self.dataset}, {self.teacher}"

    def model_stage(self) -> dict[str, Stage]:
        """The stage that built the teacher, where one did."""
        return {} if self.built is None else {"teacher": self.built}

    def model(self, inputs: Inputs) -> Path:
        """The teacher's folder."""
        if self.built is not None:
            return inputs["teacher"] / MODEL
        assert self.options.model is not None
        return model_folder(self.options.model, self.options.revision)


class EncoderGraph(StageList):
    """A study's stages, each after those that it reads; `left_out` says which cells make no sense.

    Raises:
        UsageError: no cell is left.
    """

    def __init__(self, recipe: EncoderRecipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.left_out: list[str] = []
        self.device = device_of(recipe.device)
        self.scores: dict[tuple[str, ...], Stage] = {}
        """(data set, teacher) of a teacher's own, (.., student, arm) of students."""
        self.costs: dict[tuple[str, ...], Stage] = {}


def encoder_graph(recipe: EncoderRecipe) -> EncoderGraph:
    """All stages of a study, in the order in which they can be made.

    Raises:
        UsageError: no student can be trained.
    """
    graph = EncoderGraph(recipe)
    for dataset, source in recipe.datasets.items():
        data = _data(graph, dataset, cast(EncoderSource, source))
        for name, teacher in recipe.teachers.items():
            options = cast(EncoderTeacher, teacher)
            if cast(EncoderSource, source).chosen_task == "retrieval" and not options.reads_text:
                graph.left_out.append(f"{dataset}, {name}: the teacher reads no text")
                continue
            setting = _setting(graph, dataset, name, options, data)
            _cells(graph, setting)
    if not any(len(cell) > 2 for cell in graph.scores):
        raise UsageError("no student can be trained", mend="; ".join(graph.left_out))
    _report(graph)
    return graph


def _data(graph: EncoderGraph, name: str, source: EncoderSource) -> Stage:
    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.encoders.data import prepare_examples

        return prepare_examples(source, output)

    content = graph.identify(source.content_key)
    identity = {"source": source.model_dump(mode="json"), "content": content}
    return graph.add(Stage("encoder_data", name, "data", identity, {}, make))


def _setting(
    graph: EncoderGraph,
    dataset: str,
    name: str,
    options: EncoderTeacher,
    data: Stage,
) -> Setting:
    title, device = f"{dataset}, {name}", graph.device
    fields = options.model_dump(mode="json")
    built, weights = None, None
    if options.build is not None:

        def build(output: Path, inputs: Inputs) -> dict[str, Any]:
            from limbeck.encoders.teacher_models import make_teacher

            return make_teacher(options, inputs["data"], output, device)

        wanted = {key: fields[key] for key in ("kind", "build")}
        reads = {"data": data}
        built = graph.add(Stage("encoder_teacher", title, "train", wanted, reads, build))
    else:
        assert options.model is not None
        weights = graph.identify(partial(identity_of, options.model, options.revision))
    l2 = graph.recipe.evaluate.probe_l2

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.encoders.features import make_features

        model = setting.model(inputs)
        return make_features(options, model, inputs["data"], output, l2=l2, device=device)

    kept = {key: value for key, value in fields.items() if key not in ("build", "model")}
    identity = {"teacher": kept, "weights": weights, "probe_l2": l2}
    reads = {"data": data, **({} if built is None else {"teacher": built})}
    features = graph.add(Stage("encoder_features", title, "label", identity, reads, make))
    setting = Setting(dataset, name, options, data, built, features)
    return setting


def _cells(graph: EncoderGraph, setting: Setting) -> None:
    evaluate = graph.recipe.evaluate
    reads = {"data": setting.data, "features": setting.features}

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.encoders.scoring import score_teacher

        return score_teacher(inputs["features"], inputs["data"], output, evaluate)

    identity = {"evaluate": evaluate.model_dump(mode="json")}
    stage = Stage("encoder_scores", setting.name, "evaluate", identity, reads, make)
    graph.scores[setting.dataset, setting.teacher] = graph.add(stage)
    for name, chosen in graph.recipe.students.items():
        student = cast(EncoderStudent, chosen)
        for arm_name, arm in graph.recipe.all_arms().items():
            losses = cast("tuple[EncoderLoss, ...]", arm.losses)
            if any(loss.needs_map for loss in losses) and not student.has_map:
                left = f"{name}, {arm_name}: the student has no map"
                graph.left_out += [left] if left not in graph.left_out else []
                continue
            cell = (setting.dataset, setting.teacher, name, arm_name)
            graph.scores[cell] = _cell(graph, setting, cell, student, arm)
        if graph.recipe.benchmark.enabled:
            cell = (setting.dataset, setting.teacher, name)
            graph.costs[cell] = _cost(graph, setting, cell, student)


def _cell(
    graph: EncoderGraph,
    setting: Setting,
    cell: tuple[str, ...],
    student: EncoderStudent,
    arm: EncoderArm,
) -> Stage:
    recipe, reads = graph.recipe, {"data": setting.data, "features": setting.features}
    title = ", ".join(cell)

    def job(seed: int) -> StudentJob:
        from limbeck.encoders.training import StudentJob

        losses = cast("tuple[EncoderLoss, ...]", arm.losses)
        return StudentJob(student, losses, recipe.training, seed, graph.device)

    trained: dict[str, Stage] = {}
    fields = {"student": student.model_dump(mode="json"), "losses": arm.model_dump(mode="json")}
    for seed in recipe.seeds:

        def make(output: Path, inputs: Inputs, seed: int = seed) -> dict[str, Any]:
            from limbeck.encoders.training import train_student

            return train_student(job(seed), inputs["data"], inputs["features"], output)

        training = recipe.training.model_dump(mode="json")
        identity = {**fields, "training": training, "seed": seed}
        stage = Stage("encoder_student", f"{title}, seed {seed}", "train", identity, reads, make)
        trained[f"student_{seed}"] = graph.add(stage)

    def score(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.encoders.scoring import score_students

        jobs, folders = [job(seed) for seed in recipe.seeds], [inputs[name] for name in trained]
        read = (inputs["data"], inputs["features"])
        return score_students(jobs, folders, *read, output, recipe.evaluate)

    identity = {"evaluate": recipe.evaluate.model_dump(mode="json")}
    stage = Stage("encoder_scores", title, "evaluate", identity, {**reads, **trained}, score)
    return graph.add(stage)


def _cost(
    graph: EncoderGraph, setting: Setting, cell: tuple[str, ...], student: EncoderStudent
) -> Stage:
    settings, device = graph.recipe.benchmark, graph.device

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.encoders.cost import measure_cost
        from limbeck.encoders.features import read_features

        shape, model = read_features(inputs["features"]).shape, setting.model(inputs)
        data = inputs["data"]
        return measure_cost(student, setting.options, model, shape, data, output, settings, device)

    identity = {
        "student": student.model_dump(mode="json"),
        "benchmark": settings.model_dump(mode="json"),
    }
    reads = {"data": setting.data, "features": setting.features, **setting.model_stage()}
    return graph.add(Stage("encoder_cost", ", ".join(cell), "benchmark", identity, reads, make))


def _report(graph: EncoderGraph) -> None:
    recipe = graph.recipe
    scores = {f"scores_{'/'.join(cell)}": stage for cell, stage in graph.scores.items()}
    costs = {f"cost_{'/'.join(cell)}": stage for cell, stage in graph.costs.items()}
    trained = {
        f"student_{'/'.join(cell)}/{name.removeprefix('student_')}": stage
        for cell, scored in graph.scores.items()
        for name, stage in scored.reads.items()
        if name.startswith("student_")
    }

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.encoders.report import write_encoder_report

        return write_encoder_report(recipe, graph.left_out, inputs, output)

    identity = {"recipe": recipe.model_dump(mode="json", exclude={"work"})}
    identity["left_out"] = graph.left_out
    stage = Stage(
        "encoder_report", recipe.name, "report", identity, {**scores, **costs, **trained}, make
    )
    graph.add(stage)
