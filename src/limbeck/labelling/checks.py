"""What makes an answer unfit for training."""

from __future__ import annotations

from collections.abc import Iterator

from limbeck.labelling import validity
from limbeck.recipe.labelling import Checks
from limbeck.teachers import Answer


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
