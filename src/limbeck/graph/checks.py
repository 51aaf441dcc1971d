"""What a recipe asks for that its own settings cannot give; checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from limbeck.errors import UsageError
from limbeck.losses import Loss
from limbeck.recipe import Arm, Recipe
from limbeck.recipe.sections import Student
from limbeck.teachers import Capability


def check_signals(recipe: Recipe, arms: Sequence[Arm], can: frozenset[Capability]) -> None:
    """Refuse signals that the teacher cannot give, and losses whose signal will not be kept.

    Args:
        recipe: of the run.
        arms: whose losses are looked at.
        can: what the teacher can give.

    Raises:
        UsageError: naming the loss and the setting that would help.
    """
    _check_capabilities(recipe, can)
    for arm in (arm for arm in arms if arm.trained):
        for index, loss in enumerate(cast(Sequence[Loss], arm.recipe.losses)):
            where = (
                f"losses.{index}" if arm.name == "student" else f"arms.{arm.name}.losses.{index}"
            )
            if loss.target == "student":
                _check_own_answers(recipe, loss, f"{where}.target")
            if loss.reads_features:
                _check_inner_states(recipe, loss, arm.recipe.student, where, can)
            if not loss.needs_signal:
                continue
            if recipe.label.signal == "none":
                raise UsageError(
                    "needs the teacher's distributions, and label.signal is none",
                    where=where,
                    mend="set label.signal to top_k, hidden or live",
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
                    mend=f"add {temperature} to label.temperatures, or set label.signal to hidden",
                )


def _check_capabilities(recipe: Recipe, can: frozenset[Capability]) -> None:
    label = recipe.label
    if label.signal == "hidden" and "hidden_states" not in can:
        raise _cannot("show its hidden states", "signal", "top_k or none")
    if label.signal == "live" and "score" not in can:
        raise _cannot("score answers while the student trains", "signal", "top_k or none")
    if label.signal != "top_k" or "whole_distributions" in can:
        return
    if not can & {"score", "log_probabilities"}:
        raise _cannot("give log-probabilities", "signal", "none")
    if label.answers == "gold" and "score" not in can:
        raise _cannot("score answers that it is given", "answers", "generated")
    if label.temperatures != (1.0,):
        # The log-sums at other temperatures need every token's probability.
        raise _cannot("give what other temperatures than 1 need", "temperatures", "[1]")


def _check_inner_states(
    recipe: Recipe, loss: Loss, student: Student, where: str, can: frozenset[Capability]
) -> None:
    """A loss on inner states needs a teacher that shows them along the answers trained on."""
    if "inner_states" not in can:
        raise UsageError(
            "this teacher does not show its inner states",
            where=where,
            mend="use teacher.backend: transformers, or losses on its answers and distributions",
        )
    if loss.target == "gold" and recipe.label.answers != "gold":
        raise UsageError(
            "needs states along gold answers, and the teacher's own are labelled",
            where=f"{where}.target",
            mend="set label.answers to gold, or target to teacher",
        )
    if not getattr(loss, "needs_eager_attention", False):
        return
    for name, section in (("teacher", recipe.teacher), ("student", student)):
        if getattr(section, "attention", None) != "eager":
            raise UsageError(
                "needs attention weights, which only the plain kernel keeps",
                where=where,
                mend=f"set {name}.attention to eager (more memory: tokens squared a head)",
            )


def _cannot(what: str, field: str, instead: str) -> UsageError:
    return UsageError(
        f"this teacher cannot {what}", where=f"label.{field}", mend=f"set it to {instead}"
    )


def check_vision_cache(arms: Sequence[Arm]) -> None:
    """Refuse cached features of a vision tower or projector that is trained.

    Raises:
        UsageError: naming the parts.
    """
    for arm in (arm for arm in arms if arm.trained):
        adapter, freeze = arm.recipe.student.adapter, arm.recipe.student.freeze
        if not arm.recipe.training.cache_vision_features:
            continue
        seen = ("vision_tower", "projector")
        trained = [
            part for part in seen if (part in adapter.parts if adapter else part not in freeze)
        ]
        if trained:
            raise UsageError(
                f"what is trained changes the features of pictures ({', '.join(trained)})",
                where="training.cache_vision_features"
                if arm.name == "student"
                else f"arms.{arm.name}.training.cache_vision_features",
                mend="freeze vision_tower and projector, or adapt the language model only",
            )


def _check_own_answers(recipe: Recipe, loss: Loss, where: str) -> None:
    """On-policy: only a live teacher can score what the student has just written."""
    if not (loss.needs_signal or loss.reads_features):
        raise UsageError(
            "what the student writes itself is no truth to learn by heart",
            where=where,
            mend="use a divergence there, or target: teacher or gold",
        )
    if recipe.label.signal != "live":
        raise UsageError(
            f"needs a teacher that scores new answers, and label.signal is {recipe.label.signal}",
            where=where,
            mend="set label.signal to live",
        )


def device_of(asked: str) -> str:
    """The torch device that `auto` stands for, found without loading torch.

    Under torchrun every rank gets the card of its own number.
    """
    import os
    import platform

    if asked not in ("auto", "cuda"):
        return asked
    if asked == "cuda" or Path("/dev/nvidiactl").exists():
        rank = os.environ.get("LOCAL_RANK")
        return "cuda" if rank is None else f"cuda:{rank}"
    return "mps" if (platform.system(), platform.machine()) == ("Darwin", "arm64") else "cpu"
