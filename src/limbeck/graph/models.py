"""The stages that make data and students: what each reads, and what identifies it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from limbeck.data.sources import Source
from limbeck.graph.core import Graph
from limbeck.graph.features import features_stage
from limbeck.graph.inherited import inherited_model
from limbeck.graph.initial import initial_model, training_identity
from limbeck.graph.labels import Labelled, first_samples, grown_folders, round_stage
from limbeck.graph.teacher import STUDENT, TeacherOf, answering
from limbeck.graph.verbalisers import of_student, of_teacher
from limbeck.labelling.rounds import FIRST_ROUND
from limbeck.losses import Loss
from limbeck.losses.feature_loss import FeatureLoss
from limbeck.losses.verbalised import Verbalised
from limbeck.recipe import Arm
from limbeck.recipe.recipe import WITHOUT_MODEL
from limbeck.stages import ModelOf, Stage

Inputs = Mapping[str, Path]


def data_stage(graph: Graph) -> Stage:
    """Read, check and store the data set."""
    source = cast(Source, graph.recipe.data)

    def make(output: Path, _: Inputs) -> dict[str, Any]:
        from limbeck.data.prepare import prepare

        return prepare(source, output)

    identity = {
        "source": source.model_dump(mode="json"),
        "content": graph.identify(source.content_key),
    }
    return Stage("data", source.model_dump()["source"], "data", identity, {}, make)


def model_of(graph: Graph, arm: Arm, teacher: TeacherOf, labels: Stage) -> TeacherOf | None:
    """What answers for an arm: the teacher, the student before training, or a trained student.

    A blanked arm has the model of the arm that it blanks; floors that copy answers have none.
    """
    arm = arm.sighted
    if arm.name == "teacher":
        return teacher
    if arm.name in WITHOUT_MODEL:
        return None
    initial = untrained(graph, arm, teacher)
    trained = student(graph, arm, initial, teacher, labels) if arm.trained else initial
    return answering(trained)


def untrained(graph: Graph, arm: Arm, teacher: TeacherOf) -> ModelOf:
    """An arm's student before training."""
    section, title = arm.recipe.student, f"student before training, seed {arm.seed}"
    if section.inherit is not None:
        return inherited_model(graph, section, section.inherit, teacher.model)
    return initial_model(graph, section, arm.seed or 0, title, "train")


def student(graph: Graph, arm: Arm, initial: ModelOf, teacher: TeacherOf, labels: Stage) -> ModelOf:
    """Train an arm's student; where its data grows or it has phases, in several trainings."""
    grow, (first, *phases) = arm.recipe.grow, arm.trainings()
    trained = _trained(graph, first, initial, teacher, labels, [])
    rounds: list[Labelled] = []
    for number in range(FIRST_ROUND + 1, FIRST_ROUND + 1 + (grow.rounds if grow else 0)):
        assert grow is not None
        labeller = teacher if grow.labeller == "teacher" else answering(trained)
        rounds.append(round_stage(graph, arm, labeller, number))
        start = initial if grow.start_from == "initial" else trained
        trained = _trained(graph, first, start, teacher, labels, rounds)
    for phase in phases:
        trained = _trained(graph, phase, trained, teacher, labels, rounds)
    return trained


def trainings_behind(stage: Stage) -> list[Stage]:
    """The trainings that a student went through one after the other, the given one last."""
    before = stage.reads.get("initial")
    earlier = trainings_behind(before) if before and before.kind == "student" else []
    return [*earlier, stage]


def _trained(
    graph: Graph,
    arm: Arm,
    initial: ModelOf,
    teacher: TeacherOf,
    labels: Stage,
    rounds: Sequence[Labelled],
) -> ModelOf:
    """One training, on the first labels and those of the rounds so far."""
    recipe, section = arm.recipe, arm.recipe.student
    losses = cast(Sequence[Loss], recipe.losses)
    live = recipe.label.signal == "live" and any(
        loss.needs_signal or loss.reads_features for loss in losses
    )
    rounds = list(rounds)
    title = f"{arm.id} round {FIRST_ROUND + len(rounds)}" if recipe.grow else arm.id
    title += arm.phase_title
    inner = [loss for loss in losses if isinstance(loss, FeatureLoss)]
    features: dict[str, Stage] = {}
    if inner and not live:
        first_seed = untrained(graph, Arm(arm.name, graph.recipe.seeds[0], recipe), teacher)
        features = {
            f"features/{number}": features_stage(graph, loss, section, first_seed, labels, teacher)
            for number, loss in enumerate(inner)
        }
    speaking = next((loss for loss in losses if isinstance(loss, Verbalised)), None)
    verbalisers: dict[str, Stage] = {}
    if speaking is not None:
        verbalisers = {
            "verbalisers/student": of_student(graph, arm, speaking, initial, labels),
            "verbalisers/teacher": of_teacher(graph, speaking, teacher, labels),
        }

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.training.stage import LabelFolder, train_student

        samples = first_samples(recipe, inputs["data"])
        first = LabelFolder(inputs["labels"], samples, teacher.key(inputs["data"]))
        grown, facts = grown_folders(recipe, first, rounds, inputs) if rounds else ([], [])
        summary = train_student(
            output,
            section=initial.located(section, inputs, "initial"),
            losses=losses,
            training=recipe.training,
            labelling=recipe.label,
            teacher=teacher.located(inputs, "teacher") if live else graph.teacher,
            labels=[first, *grown],
            data=inputs["data"],
            seed=arm.seed or 0,
            device=graph.device,
            title=title,
            features=[inputs[name] for name in features],
            verbalisers=[inputs[name] for name in verbalisers],
        )
        return {**summary, "grown": facts} if facts else summary

    identity = {
        "model": initial.identity(),
        "adapter": section.adapter.model_dump(mode="json") if section.adapter else None,
        "freeze": sorted(section.freeze),
        "losses": [loss.model_dump(mode="json") for loss in losses],
        "training": training_identity(recipe.training),
        "seed": arm.seed,
        "live_teacher": teacher.identity if live else None,
    }
    if rounds and recipe.grow is not None:
        identity["grow"] = recipe.grow.model_dump(mode="json", include={"keep", "ratio", "split"})
    reads = {"data": graph.data, "labels": labels, **initial.reads("initial")}
    reads |= {one.name: one.stage for one in rounds} | features | verbalisers
    if live:
        reads |= teacher.reads("teacher")
    stage = Stage("student", title, "train", identity, reads, make, collective=True)
    return ModelOf(section.model_copy(update={"adapter_path": None}), graph.add(stage), STUDENT)
