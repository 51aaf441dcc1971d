"""What makes a teacher's answer unfit for training."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from limbeck.recipe.sections import Checks
from limbeck.records import Label, Sample
from limbeck.teachers import Answer


def judge(samples: Sequence[Sample], answers: Sequence[Answer], checks: Checks) -> list[Label]:
    """Labels with the reasons that make an answer unfit for training."""
    rows: list[Label] = []
    for sample, answer in zip(samples, answers, strict=True):
        reasons = tuple(unfit_reasons(answer, checks))
        rows.append(
            Label(
                sample.id,
                answer.text,
                not reasons,
                reasons,
                answer.tokens,
                answer.finished,
                answer.mean_log_probability,
            )
        )
    return rows


def unfit_reasons(answer: Answer, checks: Checks) -> Iterator[str]:
    """Why an answer must not be trained on; nothing when it may."""
    if answer.failure is not None:
        yield answer.failure
        return
    text = answer.text.strip()
    if not text:
        yield "empty"
        return
    if len(text) < checks.min_characters:
        yield f"shorter than {checks.min_characters} characters"
    if checks.max_characters is not None and len(text) > checks.max_characters:
        yield f"longer than {checks.max_characters} characters"
    if checks.must_finish and not answer.finished:
        yield "cut by max_new_tokens"
    if repetition(text) > checks.max_repetition:
        yield "repeats itself"
    if checks.pattern is not None and not re.fullmatch(checks.pattern, text, re.DOTALL):
        yield "does not match the pattern"
    if "�" in text:
        yield "broken characters"


def repetition(text: str, n: int = 4) -> float:
    """Share of the text's word n-grams that stood earlier in it; 0 for texts without any."""
    words = text.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0
