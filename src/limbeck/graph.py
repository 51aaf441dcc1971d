"""From a recipe to its stages: who reads whom, and what identifies each.

Nothing here loads a model; the functions that do are imported when a stage is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from limbeck.data.samples import read_samples
from limbeck.data.sources import Source
from limbeck.errors import LimbeckError, UsageError
from limbeck.losses import Loss
from limbeck.recipe import Arm, Recipe, arms_of
from limbeck.recipe.sections import ModelSection, Training
from limbeck.stages import Command, ModelOf, Stage
from limbeck.teachers import Teacher
from limbeck.teachers.transformers import Transformers

MODEL = "model"
STUDENT = "student"

WITHOUT_EFFECT = {"checkpoint_every", "workers", "tracker"}
"""Fields of `training` that change no output."""

Inputs = Mapping[str, Path]


class Graph:
    """All stages of a recipe, each after those that it reads.

    `problems` holds everything that would prevent a run, such as data or models that are not on
    this machine; the stages are listed all the same.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.stages: list[Stage] = []
        self.problems: list[LimbeckError] = []
        self._arms = arms_of(recipe)
        self._teacher = cast(Teacher, recipe.teacher)
        check_signals(recipe, self._arms)
        self.device = device_of(recipe.device)
        self.data = self._add(self._data_stage())
        self._build()

    def _add(self, stage: Stage) -> Stage:
        """Keep a stage once; arms that share one get the same object."""
        for known in self.stages:
            if known.fingerprint == stage.fingerprint:
                return known
        self.stages.append(stage)
        return stage

    def _identify(self, identify: Callable[[], Any]) -> Any:
        """What identifies something outside the work folder, or a problem of the plan."""
        try:
            return identify()
        except LimbeckError as error:
            if str(error) not in map(str, self.problems):
                self.problems.append(error)
            return {"missing": str(error)}

    def _build(self) -> None:
        teacher = self._teacher_model()
        labels = self._label_stage(teacher)
        models = [(arm, self._model_of(arm, teacher, labels)) for arm in self._arms]
        predictions = [(arm, self._predictions_stage(arm, model)) for arm, model in models]
        evaluation = self._evaluation_stage(predictions)
        wanted = self.recipe.benchmark.models
        benchmarks = {
            arm.id: self._benchmark_stage(arm, model)
            for arm, model in models
            if (wanted is None or arm.name in wanted) and _is_first_seed(arm, self._arms)
        }
        self._report_stage(models, labels, evaluation, benchmarks)

    # -- data, models, labels -----------------------------------------------------------------

    def _data_stage(self) -> Stage:
        source = cast(Source, self.recipe.data)

        def make(output: Path, _: Inputs) -> dict[str, Any]:
            from limbeck.data.prepare import prepare

            return prepare(source, output)

        identity = {
            "source": source.model_dump(mode="json"),
            "content": self._identify(source.content_key),
        }
        return Stage("data", source.model_dump()["source"], "data", identity, {}, make)

    def _initial_model(
        self, section: ModelSection, seed: int, title: str, command: Command
    ) -> ModelOf:
        """A model before any training: from the hub or a folder, built, or composed."""
        build, compose = section.build, section.compose
        if build is not None:

            def make_built(output: Path, inputs: Inputs) -> dict[str, Any]:
                from limbeck.models.build import build_model

                samples = read_samples(inputs["data"], "train")
                return build_model(build, _texts(samples), seed, output / MODEL)

            identity = {"build": build.model_dump(mode="json"), "seed": seed}
            reads = {"data": self.data}
            stage = Stage("models", title, command, identity, reads, make_built)
            return ModelOf(section, self._add(stage), MODEL)
        if compose is not None:
            from limbeck.models.source import model_identity

            parts = [
                model_identity(
                    ModelSection(model=compose.vision, revision=compose.vision_revision)
                ),
                model_identity(
                    ModelSection(model=compose.language, revision=compose.language_revision)
                ),
            ]

            def make_composed(output: Path, _: Inputs) -> dict[str, Any]:
                from limbeck.models.compose import compose_model

                return compose_model(compose, seed, output / MODEL)

            identity = {"compose": compose.model_dump(mode="json"), "parts": parts, "seed": seed}
            stage = Stage("models", title, command, identity, {}, make_composed)
            return ModelOf(section, self._add(stage), MODEL)
        return ModelOf(section, weights=self._weights(section))

    def _weights(self, section: ModelSection) -> Any:
        from limbeck.models.source import model_identity

        return self._identify(lambda: model_identity(section))

    def _teacher_model(self) -> ModelOf | None:
        """The teacher's weights, fine-tuned if the recipe says so; None for a served teacher."""
        teacher = self._teacher
        if not isinstance(teacher, Transformers):
            return None
        tune = teacher.fine_tune
        seed = tune.seed if tune else 0
        initial = self._initial_model(teacher, seed, "teacher before tuning", "label")
        if tune is None:
            return initial

        def make(output: Path, inputs: Inputs) -> dict[str, Any]:
            from limbeck.training.stage import fine_tune

            return fine_tune(
                output,
                section=initial.located(teacher, inputs, "initial"),
                settings=tune,
                samples=read_samples(inputs["data"], tune.split, tune.limit),
                data=inputs["data"],
                device=self.device,
            )

        identity = {
            "model": initial.identity(),
            "fine_tune": {
                **tune.model_dump(mode="json", exclude={"training"}),
                "training": training_identity(tune.training),
            },
        }
        reads = {"data": self.data, **initial.reads("initial")}
        stage = Stage("teacher", "fine-tuned", "label", identity, reads, make, collective=True)
        return ModelOf(teacher, self._add(stage), STUDENT)

    def _located_teacher(self, model: ModelOf | None, inputs: Inputs) -> Teacher:
        if model is None:
            return self._teacher
        located = model.located(cast(Transformers, model.section), inputs, "teacher")
        return located.model_copy(update={"fine_tune": None})

    def _teacher_identity(self, model: ModelOf | None) -> dict[str, Any]:
        return self._identify(self._teacher.identity) if model is None else model.identity()

    def _cache_key(self, teacher: ModelOf | None) -> dict[str, Any]:
        """What determines the teacher's distributions, beside the samples."""
        made_by = teacher.stage.fingerprint if teacher and teacher.stage else None
        return {"teacher": self._teacher_identity(teacher), "made_by": made_by}

    def _label_stage(self, teacher: ModelOf | None) -> Stage:
        settings = self.recipe.label

        def make(output: Path, inputs: Inputs) -> dict[str, Any]:
            from limbeck.labelling import label

            return label(
                output,
                teacher=self._located_teacher(teacher, inputs),
                samples=read_samples(inputs["data"], settings.split, settings.limit),
                data=inputs["data"],
                settings=settings,
                key=self._cache_key(teacher),
                device=self.device,
            )

        fields = settings.model_dump(mode="json")
        if settings.signal != "top_k":  # what only the cache depends on
            del fields["top_k"], fields["temperatures"]
            fields["signal"] = "none"
        identity = {"teacher": self._teacher_identity(teacher), "label": fields}
        reads = {"data": self.data, **(teacher.reads("teacher") if teacher else {})}
        return self._add(Stage("labels", settings.split, "label", identity, reads, make))

    # -- arms ---------------------------------------------------------------------------------

    def _model_of(self, arm: Arm, teacher: ModelOf | None, labels: Stage) -> ModelOf | None:
        if arm.name == "teacher":
            return teacher
        title = f"student before training, seed {arm.seed}"
        initial = self._initial_model(arm.recipe.student, arm.seed or 0, title, "train")
        return initial if not arm.trained else self._student(arm, initial, teacher, labels)

    def _student(
        self, arm: Arm, initial: ModelOf, teacher: ModelOf | None, labels: Stage
    ) -> ModelOf:
        recipe, section = arm.recipe, arm.recipe.student
        losses = cast(Sequence[Loss], recipe.losses)
        live = recipe.label.signal == "live" and any(loss.needs_signal for loss in losses)

        def make(output: Path, inputs: Inputs) -> dict[str, Any]:
            from limbeck.training.stage import train_student

            return train_student(
                output,
                section=initial.located(section, inputs, "initial"),
                losses=losses,
                training=recipe.training,
                labelling=recipe.label,
                teacher=self._located_teacher(teacher, inputs) if live else self._teacher,
                samples=read_samples(inputs["data"], recipe.label.split, recipe.label.limit),
                data=inputs["data"],
                labels=inputs["labels"],
                cache_key=self._cache_key(teacher),
                seed=arm.seed or 0,
                device=self.device,
                title=arm.id,
            )

        identity = {
            "model": initial.identity(),
            "adapter": section.adapter.model_dump(mode="json") if section.adapter else None,
            "freeze": sorted(section.freeze),
            "losses": [loss.model_dump(mode="json") for loss in losses],
            "training": training_identity(recipe.training),
            "seed": arm.seed,
            "live_teacher": self._teacher_identity(teacher) if live else None,
        }
        reads = {"data": self.data, "labels": labels, **initial.reads("initial")}
        if live and teacher is not None:
            reads |= teacher.reads("teacher")
        stage = Stage("student", arm.id, "train", identity, reads, make, collective=True)
        return ModelOf(section, self._add(stage), STUDENT)

    # -- measurement --------------------------------------------------------------------------

    def _answering(self, model: ModelOf | None, inputs: Inputs) -> Teacher:
        """Any model as something that answers samples."""
        if model is None:
            return self._teacher
        located = model.located(model.section, inputs, "model")
        fields = {name: getattr(located, name) for name in ModelSection.model_fields}
        return Transformers.model_validate({"backend": "transformers", **fields})

    def _predictions_stage(self, arm: Arm, model: ModelOf | None) -> Stage:
        settings = self.recipe.evaluate

        def make(output: Path, inputs: Inputs) -> dict[str, Any]:
            from limbeck.evaluate.predict import predict

            return predict(
                output,
                model=self._answering(model, inputs),
                samples=read_samples(inputs["data"], settings.split, settings.limit),
                data=inputs["data"],
                settings=settings,
                device=self.device,
            )

        identity = {
            "model": self._teacher_identity(model),
            "evaluate": settings.model_dump(
                mode="json", include={"split", "limit", "max_new_tokens", "batch_size"}
            ),
        }
        reads = {"data": self.data, **(model.reads("model") if model else {})}
        return self._add(Stage("predictions", arm.id, "evaluate", identity, reads, make))

    def _evaluation_stage(self, predictions: Sequence[tuple[Arm, Stage]]) -> Stage:
        settings = self.recipe.evaluate
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
        reads = {"data": self.data, **{arm.id: stage for arm, stage in predictions}}
        return self._add(Stage("evaluation", "scores", "evaluate", identity, reads, make))

    def _benchmark_stage(self, arm: Arm, model: ModelOf | None) -> Stage:
        from limbeck.benchmark.machine import machine

        settings = self.recipe.benchmark
        if model is None:
            raise UsageError(
                "a served teacher cannot be benchmarked yet",
                where="benchmark.models",
                mend="list the other models there",
            )

        def make(output: Path, inputs: Inputs) -> dict[str, Any]:
            from limbeck.benchmark.stage import benchmark_model

            return benchmark_model(
                model.located(model.section, inputs, "model"),
                settings,
                inputs["data"],
                output,
                device=self.device,
            )

        identity = {
            "model": model.identity(),
            "benchmark": settings.model_dump(mode="json", exclude={"models"}),
            "machine": machine(self.device, threads=settings.threads),
        }
        reads = {"data": self.data, **model.reads("model")}
        return self._add(Stage("benchmark", arm.id, "benchmark", identity, reads, make))

    def _report_stage(
        self,
        models: Sequence[tuple[Arm, ModelOf | None]],
        labels: Stage,
        evaluation: Stage,
        benchmarks: Mapping[str, Stage],
    ) -> None:
        recipe, stages = self.recipe, list(self.stages)
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
                    stages=[
                        {"kind": s.kind, "title": s.title, "fingerprint": s.fingerprint}
                        for s in stages
                    ],
                ),
            )

        reads = {
            "data": self.data,
            "labels": labels,
            "evaluation": evaluation,
            **{f"training/{name}": stage for name, stage in trained.items()},
            **{f"benchmark/{name}": stage for name, stage in benchmarks.items()},
        }
        identity = {"recipe": recipe.model_dump(mode="json", exclude={"work"})}
        self._add(Stage("report", recipe.name, "report", identity, reads, make))


def training_identity(training: Training) -> dict[str, Any]:
    """The training fields that can change its output."""
    return training.model_dump(mode="json", exclude=WITHOUT_EFFECT)


def check_signals(recipe: Recipe, arms: Sequence[Arm]) -> None:
    """Refuse losses whose signal the label stage will not keep.

    Raises:
        UsageError: naming the loss and the setting that would help.
    """
    for arm in arms:
        for index, loss in enumerate(cast(Sequence[Loss], arm.recipe.losses)):
            where = (
                f"losses.{index}" if arm.name == "student" else f"arms.{arm.name}.losses.{index}"
            )
            if not loss.needs_signal:
                continue
            if recipe.label.signal == "none":
                raise UsageError(
                    "needs the teacher's distributions, and label.signal is none",
                    where=where,
                    mend="set label.signal to top_k or live",
                )
            if loss.target == "gold" and recipe.label.answers != "gold":
                raise UsageError(
                    "needs distributions along gold answers, and the teacher's own are labelled",
                    where=f"{where}.target",
                    mend="set label.answers to gold, or target to teacher",
                )
            temperature = getattr(loss, "temperature", None)
            stored = recipe.label.temperatures
            if recipe.label.signal == "top_k" and temperature not in (None, *stored):
                raise UsageError(
                    f"temperature {temperature} is not stored (stored: {list(stored)})",
                    where=f"{where}.temperature",
                    mend=f"add {temperature} to label.temperatures",
                )


def device_of(asked: str) -> str:
    """The torch device that `auto` stands for, found without loading torch."""
    import platform

    if asked != "auto":
        return asked
    if Path("/dev/nvidiactl").exists():
        return "cuda"
    return "mps" if (platform.system(), platform.machine()) == ("Darwin", "arm64") else "cpu"


def _is_first_seed(arm: Arm, arms: Sequence[Arm]) -> bool:
    """Seeds of one arm have equal cost, so only the first is benchmarked."""
    return next(other for other in arms if other.name == arm.name) == arm


def _texts(samples: Sequence[Any]) -> list[str]:
    """Every text that a tokenizer made for these samples should know."""
    texts = [
        part["text"] for s in samples for m in s.messages for part in m["content"] if "text" in part
    ]
    return texts + [reference for s in samples for reference in s.references]
