"""Settings that make a run fit, tried one after the other, the most harmless first.

    1  micro-batches halved: the same gradient, in more passes
    2  smaller batches for labelling and answering: the same answers
    3  gradient checkpointing: the same gradient, a forward pass more
    4  a cached teacher in place of a live one: exact enough, and disk
    5  low-rank adapters: another training
    6  weights in 8 or 4 bits, of the teacher and below the adapters: other numbers
    7  smaller pictures: other answers

What did not lower the peak is not among them. Each is checked by planning the recipe with it.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from limbeck.errors import LimbeckError
from limbeck.planning.estimate import Estimates, fits
from limbeck.planning.machine import Machine
from limbeck.planning.workload import SamplesOf, local_teachers
from limbeck.recipe import Recipe, arms_of, recipe_from
from limbeck.recipe.loading import set_field
from limbeck.recipe.sections import ModelSection

SMALLEST_PIXELS = 128 * 28 * 28
"""Below 128 visual tokens hardly any picture can be read."""

Settings = dict[str, Any]


def mends_for(recipe: Recipe, samples_of: SamplesOf, machine: Machine) -> list[dict[str, Any]]:
    """Settings to add one after the other until everything fits, or until none is left.

    Returns:
        For each: `settings` (dotted path -> value) and `arguments` as typed, what it `costs`, the
        largest peak after it (`bytes`, with the runtime), and whether everything `fits` then.
    """
    now, estimates = recipe, Estimates(recipe, samples_of, machine)
    found: list[dict[str, Any]] = []
    for number in range(len(_STEPS)):
        while not _all_fit(estimates, machine):
            settings, costs = _STEPS[number](now, estimates, machine)
            changed = None if not settings else _with(now, settings)
            if changed is None or settings is None:
                break
            after = Estimates(changed, samples_of, machine)
            if _excess(after, machine) >= _excess(estimates, machine):
                break
            now, estimates = changed, after
            row = {
                "settings": settings,
                "arguments": [
                    f"--set {shlex.quote(f'{name}={_text(value)}')}"
                    for name, value in settings.items()
                ],
                "costs": costs,
                "bytes": after.largest + machine.runtime.bytes,
                "fits": _all_fit(after, machine),
            }
            if found and set(found[-1]["settings"]) == set(settings):
                found.pop()  # halved again
            found.append(row)
    return found


def _all_fit(estimates: Estimates, machine: Machine) -> bool:
    return all(fits(memory, machine) is not False for _, memory in estimates.all())


def _excess(estimates: Estimates, machine: Machine) -> float:
    """Bytes over what may be used, summed over stages: a mend of one of them counts."""
    over = (
        (memory.bytes or 0) + machine.runtime.bytes - machine.usable
        for _, memory in estimates.all()
    )
    return sum(max(0.0, one) for one in over)


def _with(recipe: Recipe, settings: Settings) -> Recipe | None:
    """The recipe with settings, or None where it may not have them."""
    values = recipe.model_dump(mode="json")
    try:
        for name, value in settings.items():
            set_field(values, name, value, where=name)
        changed = recipe_from(values)
        arms_of(changed)
        return changed
    except LimbeckError:
        return None


def _too_large(estimates: Estimates, machine: Machine, doing: str, kind: str = "") -> bool:
    return any(
        work.doing == doing and kind in ("", work.kind) and fits(memory, machine) is False
        for work, memory in estimates.all()
    )


Step = tuple[Settings | None, str]


def _micro_batch(recipe: Recipe, estimates: Estimates, machine: Machine) -> Step:
    settings: Settings = {}
    size = recipe.training.samples_per_micro_batch
    if _too_large(estimates, machine, "train", "student") and size > 1:
        settings["training.samples_per_micro_batch"] = size // 2
    tune = getattr(recipe.teacher, "fine_tune", None)
    if tune and _too_large(estimates, machine, "train", "teacher"):
        size = tune.training.samples_per_micro_batch
        if size > 1:
            settings["teacher.fine_tune.training.samples_per_micro_batch"] = size // 2
    return settings, "the same gradient in more passes"


def _batches(recipe: Recipe, estimates: Estimates, machine: Machine) -> Step:
    settings: Settings = {}
    if _too_large(estimates, machine, "answer", "labels") and recipe.label.batch_size > 1:
        settings["label.batch_size"] = recipe.label.batch_size // 2
    if _too_large(estimates, machine, "answer", "predictions") and recipe.evaluate.batch_size > 1:
        settings["evaluate.batch_size"] = recipe.evaluate.batch_size // 2
    sizes = recipe.benchmark.batch_sizes
    if _too_large(estimates, machine, "answer", "benchmark") and max(sizes) > 1:
        halved = sorted({min(size, max(sizes) // 2) for size in sizes})
        settings["benchmark.batch_sizes"] = halved
    return settings, "the same answers, fewer at once"


def _checkpointing(recipe: Recipe, estimates: Estimates, machine: Machine) -> Step:
    settings: Settings = {}
    if _too_large(estimates, machine, "train", "student"):
        settings["training.gradient_checkpointing"] = True
    if getattr(recipe.teacher, "fine_tune", None) and _too_large(
        estimates, machine, "train", "teacher"
    ):
        settings["teacher.fine_tune.training.gradient_checkpointing"] = True
    return settings, "the same gradient, about a third more time"


def _cached_teacher(recipe: Recipe, estimates: Estimates, machine: Machine) -> Step:
    live = recipe.label.signal == "live" and _too_large(estimates, machine, "train", "student")
    own = any(loss.model_dump().get("target") == "student" for loss in recipe.losses)
    if not live or own:  # what the student writes itself only a live teacher can score
        return None, ""
    return {"label.signal": "top_k"}, "the likeliest tokens only, and disk for them"


def _adapters(recipe: Recipe, estimates: Estimates, machine: Machine) -> Step:
    settings: Settings = {}
    if _too_large(estimates, machine, "train", "student") and recipe.student.adapter is None:
        settings["student.adapter"] = {"kind": "lora", "rank": 16}
        settings["student.freeze"] = []
    tune = getattr(recipe.teacher, "fine_tune", None)
    if tune and tune.adapter is None and _too_large(estimates, machine, "train", "teacher"):
        settings["teacher.fine_tune.adapter"] = {"kind": "lora", "rank": 16}
        settings["teacher.fine_tune.freeze"] = []
    return settings, "another training: low-rank changes of the weights"


def _teacher_bits(recipe: Recipe, estimates: Estimates, machine: Machine) -> Step:
    """The teacher, first in 8 bits, then in 4; one that is fine-tuned in full cannot be."""
    section = recipe.teacher
    if not isinstance(section, ModelSection) or not local_teachers(section):  # type: ignore[arg-type]
        return None, ""
    uses = any(
        fits(memory, machine) is False
        and (work.model is section or section in work.beside or work.model == section)
        for work, memory in estimates.all()
    )
    coarser = {"none": "int8", "int8": "nf4"}.get(section.quantization)
    if not uses or coarser is None or section.build is not None:
        return None, ""
    return {"teacher.quantization": coarser}, "coarser weights: other answers, slightly"


def _student_bits(recipe: Recipe, estimates: Estimates, machine: Machine) -> Step:
    student = recipe.student
    if student.adapter is None or not _too_large(estimates, machine, "train", "student"):
        return None, ""
    coarser = {"none": "int8", "int8": "nf4"}.get(student.quantization)
    return (
        {"student.quantization": coarser} if coarser else None
    ), "coarser weights below adapters"


def _pictures(recipe: Recipe, estimates: Estimates, machine: Machine) -> Step:
    settings: Settings = {}
    for name, section in (("teacher", recipe.teacher), ("student", recipe.student)):
        pixels = getattr(section, "max_pixels", None)
        own = any(
            fits(memory, machine) is False and (work.model == section or section in work.beside)
            for work, memory in estimates.all()
        )
        if own and pixels and pixels // 2 >= SMALLEST_PIXELS:
            settings[f"{name}.max_pixels"] = pixels // 2
    return settings, "less can be read in a picture"


_STEPS = (
    _micro_batch,
    _batches,
    _checkpointing,
    _cached_teacher,
    _adapters,
    _teacher_bits,
    _student_bits,
    _pictures,
)


def _text(value: Any) -> str:
    """A value as it is typed after `--set`: YAML on one line."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ": "))
