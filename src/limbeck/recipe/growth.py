"""Rounds in which a student's training data grows by pictures that nobody has labelled."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from limbeck.recipe.component import Section
from limbeck.recipe.sections import Seed


class Keep(Section):
    """Which answers are sure enough, by their mean log-probability a token; fit ones only."""

    share: float | None = Field(
        default=None, gt=0, le=1, description="the most confident share of a round's fit answers"
    )
    min_mean_log_probability: float | None = Field(
        default=None, le=0, description="the least that is sure enough"
    )

    @model_validator(mode="after")
    def _says_something(self) -> Keep:
        if self.share is None and self.min_mean_log_probability is None:
            raise ValueError("needs share, min_mean_log_probability, or both")
        return self


class Grow(Section):
    """Further rounds after the first labels and the first training.

    In each, a labeller answers a part of the unlabelled pool, the sure answers are joined with the
    first labels, and the student is trained again for the same number of steps. The pool is the
    split without the samples of the first labels; its references are never looked at. A sample
    that was labelled in several rounds is trained on with its latest answer.
    """

    rounds: int = Field(default=1, gt=0, le=50, description="after the first training")
    labeller: Literal["student", "teacher"] = Field(
        default="student", description="student: that of the round before, of the same seed"
    )
    split: str = Field(default="unlabelled", description="whose samples are the pool")
    samples_per_round: int | None = Field(
        default=None,
        gt=0,
        description="each round's part, in an order drawn by seed; after the last it starts over; "
        "default: all of the pool in every round",
    )
    keep: Keep | None = Field(
        default=Keep(share=0.5), description="null: every answer that passes label.checks"
    )
    ratio: float = Field(
        default=1.0,
        gt=0,
        description="kept answers for each first label, at most; the most confident are taken",
    )
    start_from: Literal["initial", "previous"] = Field(
        default="initial", description="the weights that a round's training starts from"
    )
    seed: Seed = Field(default=0, description="of the order of the pool")
