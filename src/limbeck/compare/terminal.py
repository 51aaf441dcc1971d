"""One question on the terminal: every model's answer, its time and its memory."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limbeck.compare.answering import Answerers, Reply
from limbeck.compare.models import DEFAULT, comparison_of
from limbeck.compare.questions import ask_about, question_of, store_upload
from limbeck.data.images import read_image
from limbeck.data.samples import read_samples
from limbeck.recipe import Recipe
from limbeck.report.format import quantity


def compare_once(
    recipe: Recipe, image: Path, question: str | None, names: Sequence[str] = DEFAULT
) -> dict[str, Any]:
    """Ask all models about one picture.

    Args:
        recipe: whose models answer; it has been run.
        image: a picture file.
        question: None for the question of the data's first evaluation sample.
        names: of the models.

    Raises:
        LimbeckError: a model is not there, the picture is none, or a model fails.
    """
    comparison = comparison_of(recipe, names)
    samples = read_samples(comparison.data, recipe.evaluate.split)
    with (
        tempfile.TemporaryDirectory(prefix="limbeck-compare-") as folder,
        Answerers(recipe, comparison) as models,
    ):
        upload = store_upload(read_image(image, where=str(image)), Path(folder))
        sample = ask_about(upload, question or question_of(samples[0]), samples)
        replies = {m.name: models.answer(m.name, sample) for m in comparison.models}
    return {
        "image": str(image),
        "question": question_of(sample),
        "answers": {name: asdict(reply) for name, reply in replies.items()},
    }


def describe(found: dict[str, Any]) -> str:
    """As lines: the question, then a paragraph a model."""
    replies = {name: Reply(**fields) for name, fields in found["answers"].items()}
    lines = [found["question"]]
    for name, reply in replies.items():
        lines += ["", f"{name}  ({cost_line(reply)})", f"  {reply.failure or reply.text}"]
    return "\n".join(lines)


def cost_line(reply: Reply) -> str:
    """Time, tokens and memory in words."""
    cut = "" if reply.finished else ", cut by the limit"
    memory = "runs elsewhere, memory unknown"
    if reply.memory_mib is not None:
        memory = f"peak {quantity(reply.memory_mib, 'MiB')} ({reply.memory_kind})"
    return f"{quantity(1000 * reply.seconds, 'ms')}, {reply.tokens} tokens{cut}, {memory}"
