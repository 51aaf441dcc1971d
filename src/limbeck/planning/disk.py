"""What each stage leaves on disk, and takes on the way; against what is free.

Stages that are done are measured. Of the others: a model has its parameters in the precision in
which it is saved; a training keeps one checkpoint (the trained weights, the optimiser's state), of
which there are two while one is written; caches of distributions and of vision features are those
of `graph/disk.py`; inner states are int8 with a float32 scale a row (`signals/features.py`).
Answers, scores and pages are small and not counted.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from limbeck.errors import LimbeckError
from limbeck.graph.disk import disk_needs, vision_features_need
from limbeck.losses.feature_loss import FeatureLoss
from limbeck.planning.activations import FLOAT32
from limbeck.planning.lengths import Lengths
from limbeck.planning.models import Unknown, shape_of
from limbeck.planning.precision import BYTES, value_bytes
from limbeck.planning.shape import Shape
from limbeck.planning.trained import trained
from limbeck.planning.training import MOMENTS, optimizer_bytes, speaking_layers
from limbeck.planning.workload import Workload, local_teachers
from limbeck.recipe import Recipe, arms_of
from limbeck.records import ModelShape, Tap
from limbeck.stages import Stage
from limbeck.store import Store
from limbeck.teachers import Teacher

SCALE_BYTES = 4
SMALL = ("predictions", "fidelity", "evaluation", "judge", "public", "benchmark", "report")
"""Kinds of stages that hold text only."""


@dataclass(frozen=True)
class StageDisk:
    """Bytes that stay, and those that are there on the way only; `unknown` says why there are none.

    `measured` where the stage is done; `at_most` where lengths or sizes are known from above.
    """

    bytes: float | None = None
    temporary: float = 0.0
    unknown: str = ""
    measured: bool = False
    at_most: bool = False

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "bytes": self.bytes,
            "temporary_bytes": self.temporary,
            "measured": self.measured,
            "at_most": self.at_most,
            "unknown": self.unknown or None,
        }


class Disk:
    """The disk of a recipe's stages.

    Args:
        recipe: of the run.
        store: where stages go.
        data: the finished data stage's folder; None before.
    """

    def __init__(self, recipe: Recipe, store: Store, data: Path | None) -> None:
        self._recipe, self._store, self._data = recipe, store, data
        self._teachers = local_teachers(cast(Teacher, recipe.teacher))
        self._arms = {arm.id: arm for arm in arms_of(recipe) if arm.trained}

    def free(self) -> int:
        """Bytes that are free where the work folder is, or will be."""
        root = self._store.root.absolute()
        existing = next(path for path in (root, *root.parents) if path.exists())
        return shutil.disk_usage(existing).free

    def of(self, stage: Stage, works: Sequence[Workload]) -> StageDisk:
        """What a stage takes.

        Args:
            stage: planned.
            works: its workloads (see `planning/workload.py`).
        """
        if self._store.is_complete(stage.kind, stage.fingerprint):
            try:
                files = self._store.manifest(stage.kind, stage.fingerprint)["files"]
                return StageDisk(sum(one["bytes"] for one in files.values()), measured=True)
            except (LimbeckError, KeyError, TypeError) as error:
                return StageDisk(unknown=str(error))
        if stage.kind in SMALL:
            return StageDisk(0.0)
        if stage.kind in ("data", "questions"):
            return StageDisk(unknown="the source's size is known when it was read")
        if stage.kind == "labels":
            return self._labels()
        try:
            found = [self._of(work) for work in works]
        except Unknown as error:
            return StageDisk(unknown=str(error))
        if not found:
            return StageDisk(unknown="no rule for this stage")
        return max(found, key=lambda one: (one.bytes or 0) + one.temporary)

    def _of(self, work: Workload) -> StageDisk:
        teacher = self._teachers[0] if self._teachers else None
        shape = shape_of(work.model, teacher)
        if work.doing == "build":
            stored = shape.stored if getattr(work.model, "inherit", None) else "float32"
            return StageDisk(shape.parameters * BYTES.get(stored, 4), at_most=shape.at_most)
        if work.doing == "train":
            return self._training(work, shape)
        if work.doing == "teach layers to speak":
            parameters = speaking_layers(work, shape) * 3 * shape.sizes.width**2
            head = shape.sizes.vocabulary * shape.sizes.width * BYTES["bfloat16"]
            head *= work.title == "teacher"
            # Of the head only the tokenizer's rows are kept.
            return StageDisk(parameters * 4 * BYTES["float32"] + head, at_most=head > 0)
        assert work.doing == "read states", "the others are small"
        return self._states(work, shape)

    def _training(self, work: Workload, shape: Shape) -> StageDisk:
        assert work.training is not None, "a training says how"
        own = trained(shape, work.adapter, work.freeze)
        plain = value_bytes(work.model, shape)
        weights = own.adapter * BYTES["float32"] + (own.total - own.adapter) * plain
        checkpoint = weights + optimizer_bytes(shape, own, work.training, plain)
        checkpoint += _spoken_bytes(work, shape)
        temporary, unknown = checkpoint, ""
        if work.training.cache_vision_features and work.title in self._arms:
            need = vision_features_need(self._arms[work.title], self._data)
            temporary += need["bytes"] or 0
            unknown = f"its cache of vision features: {need['unknown']}" if need["unknown"] else ""
        size = shape.parameters * plain + checkpoint + _kept_bytes(work, shape)
        return StageDisk(size, temporary, unknown, at_most=shape.at_most)

    def _labels(self) -> StageDisk:
        needs = disk_needs(self._recipe, self._data)
        own = next((one for one in needs if one["what"] == "teacher's distributions"), None)
        if own is None:
            return StageDisk(0.0)
        return StageDisk(own["bytes"], unknown=own["unknown"] or "", at_most=own["at_most"])

    def _states(self, work: Workload, shape: Shape) -> StageDisk:
        """int8 states of the taps that the loss reads, over all samples, each as the longest."""
        if work.lengths.samples is None:
            return StageDisk(unknown="the data stage counts the samples")
        loss = next(one for one in work.losses if isinstance(one, FeatureLoss))
        student = self._student(work)
        try:
            own, theirs = student or model_shape(shape), model_shape(shape)
            taps = loss.teacher_taps(own, theirs)
        except LimbeckError as error:
            return StageDisk(unknown=str(error))
        each = sum(tap_bytes(tap, shape, work.lengths) for tap in taps)
        return StageDisk(work.lengths.samples * each, at_most=True)

    def _student(self, work: Workload) -> ModelShape | None:
        section = work.student
        return None if section is None else model_shape(shape_of(section, work.model))


def _kept_bytes(work: Workload, shape: Shape) -> float:
    """The student's verbalisers, which stay beside it."""
    if not any(hasattr(loss, "verbalisers") for loss in work.losses):
        return 0.0
    return FLOAT32 * speaking_layers(work, shape) * 3 * shape.sizes.width**2


def _spoken_bytes(work: Workload, shape: Shape) -> float:
    """Verbalisers in a checkpoint: the student's with the optimiser's state, and the teacher's."""
    if work.teacher is None or not any(hasattr(loss, "verbalisers") for loss in work.losses):
        return 0.0
    theirs = shape_of(work.teacher)
    own = speaking_layers(work, shape) * 3 * shape.sizes.width**2 * (1 + MOMENTS)
    title = replace(work, title="teacher")
    return FLOAT32 * (own + speaking_layers(title, theirs) * 3 * theirs.sizes.width**2)


def model_shape(shape: Shape) -> ModelShape:
    """What losses on inner states want to know of a model."""
    return ModelShape(shape.sizes.layers, shape.sizes.width, shape.sizes.vision_width)


def tap_bytes(tap: Tap, shape: Shape, lengths: Lengths) -> float:
    """What one tap keeps of a sample: rows of one byte a value, and a scale for each row."""
    if tap.kind == "hidden":
        return lengths.answer * (shape.sizes.width + SCALE_BYTES)
    if tap.kind == "attention":
        keys = lengths.visual if tap.place == "vision" else lengths.whole - lengths.visual
        return lengths.answer * (keys + SCALE_BYTES)
    if tap.place == "tower":
        patches = lengths.visual * shape.sizes.patches_per_token
        return patches * (shape.sizes.vision_width + SCALE_BYTES)
    return lengths.visual * (shape.sizes.width + SCALE_BYTES)
