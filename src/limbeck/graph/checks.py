"""What a recipe asks for that its own settings cannot give; checked before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

from limbeck.data.samples import read_samples
from limbeck.errors import UsageError
from limbeck.losses import Loss
from limbeck.recipe import Arm, Recipe
from limbeck.recipe.labelling import REFERENCE
from limbeck.teachers import Capability, Teacher


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
    for arm in (arm.sighted for arm in arms if arm.sighted.trained):
        for index, loss in enumerate(cast(Sequence[Loss], arm.recipe.losses)):
            where = arm.place(f"losses.{index}")
            if loss.target == "student":
                _check_own_answers(recipe, loss, f"{where}.target")
            if loss.reads_features:
                _check_inner_states(arm.recipe, loss, where, can)
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
            if temperature not in (None, 1.0) and "whole_distributions" not in can:
                raise UsageError(
                    f"temperature {temperature} needs every token's probability, and this teacher"
                    " gives those of the likeliest",
                    where=f"{where}.temperature",
                    mend="set it to 1",
                )


def _check_capabilities(recipe: Recipe, can: frozenset[Capability]) -> None:
    label = recipe.label
    if label.needs_confidence and not can & {"score", "log_probabilities"}:
        chosen = label.checks.min_mean_log_probability is None
        field = "choose" if chosen else "checks.min_mean_log_probability"
        raise _cannot("say how sure it is of an answer", field, "agreement" if chosen else "null")
    if label.signal == "hidden" and "hidden_states" not in can:
        raise _cannot("show its hidden states", "signal", "top_k or none")
    if label.signal == "live" and "score" not in can:
        raise _cannot("score answers while the student trains", "signal", "top_k or none")
    if label.signal != "top_k":
        return
    if not can & {"score", "log_probabilities"}:
        could = hasattr(recipe.teacher, "log_probabilities")
        also = ", or teacher.log_probabilities to true if the server gives them" if could else ""
        raise _cannot("give log-probabilities", "signal", f"none{also}")
    if label.answers == "gold" and "score" not in can:
        raise _cannot("score answers that it is given", "answers", "generated")
    if label.temperatures != (1.0,) and "whole_distributions" not in can:
        # The log-sums at other temperatures need every token's probability.
        raise _cannot("give what other temperatures than 1 need", "temperatures", "[1]")


def _check_inner_states(recipe: Recipe, loss: Loss, where: str, can: frozenset[Capability]) -> None:
    """A loss on inner states needs a teacher that shows them along the answers trained on."""
    shared = recipe.training.share_prefix
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
    if recipe.grow is not None and recipe.label.signal != "live":
        raise UsageError(
            "the teacher's states are cached along its first labels, not those of later rounds",
            where=where,
            mend="set label.signal to live, or use a loss on distributions there",
        )
    if shared:
        raise UsageError(
            "inner states are cut out by sequence, and shared prefixes put several samples in one",
            where=where,
            mend="set training.share_prefix to false, or use a loss on distributions there",
        )
    if not getattr(loss, "needs_eager_attention", False):
        return
    for name, section in (("teacher", recipe.teacher), ("student", recipe.student)):
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


def check_shown_examples(recipe: Recipe, teacher: Teacher) -> None:
    """Refuse few-shot examples from the samples that are evaluated: the teacher would see answers.

    Raises:
        UsageError: naming the split.
    """
    shown = teacher.few_shot
    if shown is not None and shown.ids is None and shown.split == recipe.evaluate.split:
        raise UsageError(
            f"the teacher would be shown answers of {shown.split!r}, which it is scored on",
            where="teacher.few_shot.split",
            mend="draw them from train or validation",
        )
    for member in teacher.members():
        check_shown_examples(recipe, member)


def check_listed_examples(recipe: Recipe, teacher: Teacher, data: Path) -> None:
    """As `check_shown_examples`, of examples that are listed: their split is known from the data.

    Raises:
        UsageError: naming the sample.
    """
    if teacher.few_shot is not None and teacher.few_shot.ids is not None:
        listed = set(teacher.few_shot.ids)
        evaluated = [s.id for s in read_samples(data) if s.split == recipe.evaluate.split]
        if scored := sorted(listed.intersection(evaluated)):
            raise UsageError(
                f"the teacher would be shown the answer of {scored[0]}, which it is scored on",
                where="teacher.few_shot.ids",
                mend=f"list samples of another split than {recipe.evaluate.split!r}",
            )
    for member in teacher.members():
        check_listed_examples(recipe, member, data)


def check_growth(arms: Sequence[Arm], can: frozenset[Capability]) -> None:
    """Refuse rounds that would compare what is unequal, or that cannot be labelled or trained on.

    Args:
        arms: whose data may grow.
        can: what the teacher can give.

    Raises:
        UsageError: naming the setting.
    """
    for arm in (arm for arm in arms if arm.trained):
        recipe, grow = arm.recipe, arm.recipe.grow
        if grow is None:
            continue
        if grow.split == recipe.evaluate.split:
            raise UsageError(
                f"the students would be trained on pictures of {grow.split!r} and scored on them",
                where="grow.split",
                mend="grow by another split",
            )
        if recipe.training.steps is None:
            raise UsageError(
                "with epochs, a student would be trained longer because its data has grown",
                where="training.epochs",
                mend="set training.steps, which is equal for all rounds and the control",
            )
        losses = cast(Sequence[Loss], recipe.losses)
        if any(loss.target == "gold" for loss in losses):
            raise UsageError(
                "unlabelled pictures have no gold answers",
                where="losses.target: gold",
                mend="use target: teacher; with label.answers: gold that is the gold answer too",
            )
        if recipe.label.chosen_by.startswith(REFERENCE):
            raise UsageError(
                "unlabelled pictures have no references to choose answers by",
                where="label.choose",
                mend="choose by agreement or confidence",
            )
        if grow.labeller == "student" and any(loss.crosses_tokenizers for loss in losses):
            raise UsageError(
                "teacher and student would label in tokens of two tokenizers",
                where="grow.labeller: student",
                mend="set it to teacher",
            )
        sure = can >= {"score", "whole_distributions"} or "log_probabilities" in can
        if grow.labeller == "teacher" and grow.keep is not None and not sure:
            raise UsageError(
                "this teacher cannot give the log-probabilities that answers are sorted by",
                where="grow.keep",
                mend="set it to null, or grow.labeller to student",
            )


def check_vision_cache(arms: Sequence[Arm]) -> None:
    """Refuse cached features of a vision tower or projector that is trained.

    Raises:
        UsageError: naming the parts.
    """
    for arm in (arm.sighted for arm in arms if arm.sighted.trained):
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
                where=arm.place("training.cache_vision_features"),
                mend="freeze vision_tower and projector, or adapt the language model only",
            )


def check_head_gradient(arms: Sequence[Arm]) -> None:
    """Refuse a filter of the head's weight gradient where that is not computed or not alone.

    What only the loaded model can tell, `limbeck.training.objective` refuses when it starts.

    Raises:
        UsageError: saying why.
    """
    for arm in (arm for arm in arms if arm.trained):
        student = arm.recipe.student
        if arm.recipe.training.head_gradient_tolerance is None:
            continue
        losses = cast(Sequence[Loss], arm.recipe.losses)
        by_logits = [loss for loss in losses if not loss.reads_features]
        plain = [loss for loss in by_logits if not loss.fused]
        if student.adapter is not None or "head" in student.freeze:
            reason = "the head's own weights are not trained"
        elif plain:
            reason = f"{type(plain[0]).__name__} is computed from whole logits"
        elif not by_logits:
            reason = "no loss is computed from logits"
        else:
            continue
        raise UsageError(
            f"no gradient of the head's weights can be filtered: {reason}",
            where=arm.place("training.head_gradient_tolerance"),
            mend="set it to null",
        )


def check_shared_prefixes(arms: Sequence[Arm]) -> None:
    """Refuse shared beginnings in training with a kernel that cannot tell questions apart.

    What else stands against it is known when the model is loaded.

    Raises:
        UsageError: naming the kernel.
    """
    for arm in (arm for arm in arms if arm.trained and arm.recipe.training.share_prefix):
        if (kernel := arm.recipe.student.attention) not in ("auto", "sdpa", "eager"):
            raise UsageError(
                f"needs attention: sdpa or eager, not {kernel}",
                where=arm.place("training.share_prefix"),
                mend="change student.attention, or set it to false",
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
