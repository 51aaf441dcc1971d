"""What each stage of a recipe holds in memory and does: read off the recipe, without its graph.

A workload belongs to the planned stage of its kind and title, which are those of `graph/`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

from limbeck.losses import Loss
from limbeck.planning.lengths import Lengths, lengths_of
from limbeck.recipe import Arm, Recipe, arms_of
from limbeck.recipe.recipe import WITHOUT_MODEL, has_cost
from limbeck.recipe.sections import Adapter, ModelSection, PartName, Training
from limbeck.records import Sample
from limbeck.teachers import Teacher

Doing = Literal["answer", "train", "read states", "teach layers to speak", "build"]
SamplesOf = Callable[[str | Sequence[str], int | None], "list[Sample] | None"]


@dataclass(frozen=True)
class Workload:
    """One stage's.

    Attributes:
        kind, title: of the stage.
        doing: what the model does.
        model: that is loaded.
        lengths: of its sequences.
        batch: samples at once; of a training a micro-batch's.
        writes: whether it generates its answers (not where they are the references).
        scored: whether it also computes distributions along its answers.
        training, adapter, freeze, losses: of a training.
        beside: other models that are loaded with it: live teachers, members of a mixture.
        beside_lengths: of the live teacher's sequences.
        teacher: of the recipe, where it runs in this process.
        student: whose layers the teacher's inner states are read for.
        signal: how the teacher's distributions come to a training.
    """

    kind: str
    title: str
    doing: Doing
    model: ModelSection
    lengths: Lengths
    batch: int
    writes: bool = True
    scored: bool = False
    training: Training | None = None
    adapter: Adapter | None = None
    freeze: tuple[PartName, ...] = ()
    losses: tuple[Loss, ...] = ()
    beside: tuple[ModelSection, ...] = ()
    beside_lengths: Lengths | None = None
    teacher: ModelSection | None = None
    student: ModelSection | None = None
    signal: str = "none"


def workloads(recipe: Recipe, samples_of: SamplesOf) -> list[Workload]:
    """Every stage that loads a model in this process, in no order.

    Args:
        recipe: of the run.
        samples_of: the samples of splits, at most so many; None before the data stage is done.

    Raises:
        Unknown: see `lengths_of`.
    """
    arms = arms_of(recipe)
    teachers = local_teachers(cast(Teacher, recipe.teacher))
    found: list[Workload] = []
    for arm in arms:
        if arm.trained or arm.sighted.name == "baseline":
            title = "student of the teacher's layers" if arm.recipe.student.inherit else ""
            title = title or f"student before training, seed {arm.seed or 0}"
            found.append(_built(arm.recipe.student, title))
    for teacher in teachers:
        found.append(_built(teacher, "teacher before tuning"))
        found += _fine_tuning(teacher, samples_of)
    if teachers:
        found += _labelling(recipe, teachers, samples_of)
    for arm in arms:
        if arm.trained:
            found += [
                workload
                for one in arm.trainings()
                for workload in _training(one, teachers, samples_of)
            ]
        if arm.name not in WITHOUT_MODEL:
            found += _answering(arm, teachers, samples_of)
    return found


def local_teachers(teacher: Teacher) -> list[ModelSection]:
    """The models in this process that a teacher is; none where a server or an engine answers."""
    if members := teacher.members():
        return [one for member in members for one in local_teachers(member)]
    return [teacher] if isinstance(teacher, ModelSection) else []


def _built(section: ModelSection, title: str) -> Workload:
    """A model before any training; its title is compared by how it begins."""
    return Workload("models", title, "build", section, Lengths(0, 0, 0, None), 0)


def _fine_tuning(teacher: ModelSection, samples_of: SamplesOf) -> list[Workload]:
    tune: Any = getattr(teacher, "fine_tune", None)
    if tune is None:
        return []
    from limbeck.losses.cross_entropy import CrossEntropy

    samples = samples_of(tune.split, tune.limit)
    return [
        Workload(
            "teacher",
            "fine-tuned",
            "train",
            teacher,
            lengths_of(teacher, samples, new_tokens=None, references=True),
            micro_batch(tune.training),
            training=tune.training,
            adapter=tune.adapter,
            freeze=tune.freeze,
            losses=(CrossEntropy(target="gold"),),
        )
    ]


def _labelling(
    recipe: Recipe, teachers: Sequence[ModelSection], samples_of: SamplesOf
) -> list[Workload]:
    label = recipe.label
    samples = samples_of(label.splits, label.limit)
    answers = label.answers == "generated"
    lengths = [
        lengths_of(
            one,
            samples,
            new_tokens=label.max_new_tokens if answers else None,
            references=not answers,
        )
        for one in teachers
    ]
    longest = max(lengths, key=lambda one: one.whole)
    scored = label.signal in ("top_k", "hidden") or label.needs_confidence
    return [
        Workload(
            "labels",
            " + ".join(label.splits),
            "answer",
            teachers[0],
            longest,
            label.batch_size,
            writes=answers,
            scored=scored,
            beside=tuple(teachers[1:]),
        )
    ]


def _training(arm: Arm, teachers: Sequence[ModelSection], samples_of: SamplesOf) -> list[Workload]:
    recipe, losses = arm.recipe, tuple(cast("Sequence[Loss]", arm.recipe.losses))
    section, label, training = recipe.student, recipe.label, recipe.training
    sized = sized_section(recipe)
    samples = samples_of(label.splits, label.limit)
    targets = {loss.target for loss in losses}
    written = label.max_new_tokens if label.answers == "generated" else None
    if "student" in targets:
        written = max(written or 0, training.on_policy.max_new_tokens)
    gold = "gold" in targets or label.answers == "gold"
    lengths = lengths_of(sized, samples, new_tokens=written, references=gold)
    needs = any(loss.needs_signal or loss.reads_features for loss in losses)
    live = label.signal == "live" and needs
    theirs = [
        lengths_of(one, samples, new_tokens=written, references=gold) for one in teachers if live
    ]
    trained = Workload(
        "student",
        f"{arm.id}{arm.phase_title}",
        "train",
        section,
        lengths,
        micro_batch(training),
        training=training,
        adapter=section.adapter,
        freeze=section.freeze,
        losses=losses,
        beside=tuple(teachers) if live else (),
        beside_lengths=max(theirs, key=lambda one: one.whole) if theirs else None,
        teacher=teachers[0] if teachers else None,
        signal=label.signal if any(loss.needs_signal for loss in losses) else "none",
    )
    found = [trained]
    for loss in losses:
        if not loss.reads_features:
            continue
        kind = str(loss.model_dump()["kind"])
        batch = label.batch_size
        if teachers and not live:
            own = lengths_of(teachers[0], samples, new_tokens=written, references=gold)
            found.append(
                Workload(
                    "features",
                    kind,
                    "read states",
                    teachers[0],
                    own,
                    batch,
                    losses=(loss,),
                    student=section,
                )
            )
        if (how := getattr(loss, "verbalisers", None)) is not None:
            speaks: Doing = "teach layers to speak"
            batch = micro_batch(how)
            title = f"{arm.id} before training"
            one = Workload(
                "verbalisers", title, speaks, section, lengths, batch, training=how, losses=(loss,)
            )
            found.append(one)
            for teacher in teachers[:1]:
                own = lengths_of(teacher, samples, new_tokens=written, references=gold)
                found.append(
                    Workload(
                        "verbalisers",
                        "teacher",
                        speaks,
                        teacher,
                        own,
                        batch,
                        training=how,
                        losses=(loss,),
                    )
                )
    return found


def _answering(arm: Arm, teachers: Sequence[ModelSection], samples_of: SamplesOf) -> list[Workload]:
    recipe, settings = arm.recipe, arm.recipe.evaluate
    is_teacher = arm.sighted.name == "teacher"
    if is_teacher and not teachers:
        return []
    models = list(teachers) if is_teacher else [recipe.student]
    sized = teachers[0] if is_teacher else sized_section(recipe)
    samples = samples_of(settings.split, settings.limit)
    lengths = lengths_of(sized, samples, new_tokens=settings.max_new_tokens)
    beside = tuple(models[1:])
    found = [
        Workload(
            "predictions", arm.id, "answer", models[0], lengths, settings.batch_size, beside=beside
        )
    ]
    timed = recipe.benchmark
    if has_cost(arm.name) and not beside:
        pictures = samples_of(timed.split, None)
        limit = max(timed.new_tokens, timed.max_new_tokens)
        lengths = lengths_of(sized, pictures, new_tokens=limit)
        batch = max(timed.batch_sizes)
        found.append(Workload("benchmark", arm.id, "answer", models[0], lengths, batch))
    return found


def micro_batch(training: Training) -> int:
    """Samples at once: a step may have fewer than a micro-batch may hold."""
    size = training.samples_per_micro_batch
    return min(size, training.samples_per_step or size)


def sized_section(recipe: Recipe) -> ModelSection:
    """The section that tells a student's picture sizes; one of the teacher's layers has its own."""
    student, teacher = recipe.student, recipe.teacher
    if student.inherit is None or not isinstance(teacher, ModelSection):
        return student
    budget = {"min_pixels": student.min_pixels, "max_pixels": student.max_pixels}
    return teacher.model_copy(update={**budget, "dtype": student.dtype})
