"""What the two large caches will take on disk, before they are made; what a plan shows of it.

Nothing is loaded for it: sizes come from the recipe, from models' config.json, and from the data
stage where that is done. What these do not tell is unknown, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from limbeck.data.samples import read_samples
from limbeck.errors import LimbeckError
from limbeck.graph.budget import most_picture_tokens, picture_tokens
from limbeck.losses import Loss
from limbeck.models.source import model_config
from limbeck.recipe import Arm, Recipe, arms_of
from limbeck.recipe.sections import Labelling, ModelSection
from limbeck.records import Sample

NOT_COUNTED = "the data stage counts the samples"
STEP_BYTES = 4
"""Of int8 vision features, for each token. (What does not grow with tokens is not counted.)"""


def disk_needs(recipe: Recipe, data: Path | None) -> list[dict[str, Any]]:
    """The caches of the teacher's distributions and of vision features, those that will be made.

    Args:
        recipe: of the run.
        data: the finished data stage's folder; None where it is not done.

    Returns:
        For each `what` and `kind`; `samples`, None before they are counted; `bytes_per_token` and
        `tokens_per_sample` (answer tokens, or visual ones); `bytes`; whether both are `at_most`;
        and `unknown`, the reason why `bytes` is None.
    """
    arms = [one for arm in arms_of(recipe) if arm.trained for one in arm.trainings()]
    # An arm may have data, a teacher and labels of its own; its data is not counted.
    counted = {arm.id: data if arm.recipe.data == recipe.data else None for arm in arms}
    needs = [one for arm in arms for one in _signals(arm.recipe, [arm], counted[arm.id])]
    needs += [vision_features_need(arm, counted[arm.id]) for arm in _caching(arms)]
    return [need for number, need in enumerate(needs) if need not in needs[:number]]


def _signals(recipe: Recipe, arms: Sequence[Arm], data: Path | None) -> list[dict[str, Any]]:
    label = recipe.label
    asked = any(loss.needs_signal for arm in arms for loss in cast("list[Loss]", arm.recipe.losses))
    if label.signal not in ("top_k", "hidden") or not asked:
        return []
    samples = _samples(label, data)
    need = _need("teacher's distributions", label.signal, samples)
    width = _width_of_row(recipe.teacher, label)
    need["bytes_per_token"], need["at_most"] = width, True
    if label.answers == "generated":
        need["tokens_per_sample"] = label.max_new_tokens
        tokens = None if samples is None else len(samples) * label.max_new_tokens
    else:  # a token has at least a byte, and a turn has an end
        lengths = [len(s.references[0].encode()) + 2 for s in samples or () if s.references]
        need["tokens_per_sample"] = max(lengths, default=None)
        tokens = sum(lengths) if lengths else None
    if width is None:
        need["unknown"] = "the teacher's sizes are not on this machine"
    elif tokens is None:
        need["unknown"] = NOT_COUNTED
    else:
        need["bytes"] = tokens * width
    return [need]


def vision_features_need(arm: Arm, data: Path | None) -> dict[str, Any]:
    """The cache of vision features of one arm's training, as `disk_needs` lists it."""
    section, training = _sized(arm.recipe), arm.recipe.training
    coding = str(training.cache_vision_features)
    samples = _samples(arm.recipe.label, data)
    need = _need("vision features", coding, samples)
    need["at_most"] = samples is None
    width, layers, half = _feature_sizes(section)
    if width is None:
        need["unknown"] = "the student's sizes are not on this machine"
        return need
    value_bytes = 2 if half or training.precision == "bf16" else 4
    row = width + STEP_BYTES if coding == "int8" else width * value_bytes
    need["bytes_per_token"] = layers * row
    if samples is None:
        need["tokens_per_sample"] = most_picture_tokens(section)
        need["unknown"] = NOT_COUNTED
        return need
    pictures = {tuple(f.path for f in s.images): s.images for s in samples if s.images}
    counts = [
        sum(picture_tokens(section, f.width, f.height) or 0 for f in images)
        for images in pictures.values()
    ]
    if not all(counts):
        need["unknown"] = "this family's number of visual tokens is known when it is loaded"
        return need
    need["tokens_per_sample"] = max(counts, default=0)
    need["bytes"] = sum(counts) * layers * row
    return need


def _sized(recipe: Recipe) -> ModelSection:
    """The section that tells the student's sizes; one of the teacher's layers has its widths."""
    student, teacher = recipe.student, recipe.teacher
    if student.inherit is None or not isinstance(teacher, ModelSection):
        return student
    budget = {"min_pixels": student.min_pixels, "max_pixels": student.max_pixels}
    return teacher.model_copy(update={**budget, "dtype": student.dtype})


def _caching(arms: Sequence[Arm]) -> list[Arm]:
    return [arm for arm in arms if arm.recipe.training.cache_vision_features]


def _need(what: str, kind: str, samples: Sequence[Sample] | None) -> dict[str, Any]:
    return {
        "what": what,
        "kind": kind,
        "samples": None if samples is None else len(samples),
        "bytes_per_token": None,
        "tokens_per_sample": None,
        "bytes": None,
        "at_most": False,
        "unknown": None,
    }


def _samples(label: Labelling, data: Path | None) -> list[Sample] | None:
    return None if data is None else read_samples(data, label.splits, label.limit)


def _width_of_row(teacher: Any, label: Labelling) -> float | None:
    """Bytes for every answer token; None where the teacher's sizes are not known."""
    from limbeck.signals import hidden_coding, top_k_coding

    sizes = _text_sizes(teacher) if isinstance(teacher, ModelSection) else {}
    if label.signal == "hidden":
        width = sizes.get("hidden_size")
        return hidden_coding.bytes_per_token(width) if width else None
    vocabulary = sizes.get("vocab_size")
    if not vocabulary:
        return None
    return top_k_coding.bytes_per_token(label.top_k, vocabulary, label.temperatures)


def _feature_sizes(section: ModelSection) -> tuple[int | None, int, bool]:
    """Width of a feature, how many a token has, and whether the weights are in half precision."""
    from limbeck.models.family import family_named

    sizes = _text_sizes(section)
    half = sizes.get("dtype") if section.dtype == "auto" else section.dtype
    if section.build is not None:
        layers = 1 + family_named(section.build.family).deep_layers
    else:
        layers = 1 + len(sizes.get("deepstack") or ())
    return sizes.get("hidden_size"), layers, half in ("bfloat16", "float16")


def _text_sizes(section: ModelSection) -> dict[str, Any]:
    """Of the language model: `hidden_size`, `vocab_size`, `dtype`; empty where they are unknown."""
    if section.build is not None:
        build = section.build
        rows = build.vocabulary_rows or build.tokenizer_vocabulary
        return {"hidden_size": build.hidden_size, "vocab_size": rows, "dtype": "float32"}
    if section.compose is not None:
        parts = section.compose
        section = ModelSection(model=parts.language, revision=parts.language_revision)
    if section.model is None:
        return {}
    try:
        config = model_config(section)
    except LimbeckError:  # not on this machine: a problem of the plan already
        return {}
    text = {**config, **(config.get("text_config") or {})}
    return {
        "hidden_size": text.get("hidden_size"),
        "vocab_size": text.get("vocab_size"),
        "dtype": config.get("dtype") or config.get("torch_dtype"),
        "deepstack": (config.get("vision_config") or {}).get("deepstack_visual_indexes"),
    }
