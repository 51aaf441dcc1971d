"""Labels from answers, with the reasons that make an answer unfit for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from limbeck.labelling import validity
from limbeck.recipe.labelling import Checks
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


def unfit_reasons(
    answer: Answer, checks: Checks, *, agreement: float | None = None
) -> Iterator[str]:
    """Why an answer must not be trained on; nothing when it may."""
    if answer.failure is not None:
        yield answer.failure
        return
    yield from validity.unfit_reasons(
        answer.text,
        answer.finished,
        checks,
        mean_log_probability=answer.mean_log_probability,
        agreement=agreement,
    )
