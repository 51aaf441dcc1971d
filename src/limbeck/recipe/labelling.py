"""The recipe's section `label`: what the teacher is asked for, and what makes an answer unfit."""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

import regex
from pydantic import Field, model_validator

from limbeck.errors import UsageError
from limbeck.recipe.component import Section, Seed, component_class

Language = Literal[
    "ar", "de", "el", "en", "es", "fr", "he", "hi", "it", "ja", "ko", "nl", "pt", "ru", "th", "zh"
]
SharePrefix = Annotated[
    bool,
    Field(description="keep questions on a picture together; run what their prompts share once"),
]
REFERENCE = "reference:"
"""What `label.choose` begins with where a metric chooses."""


class Checks(Section):
    """What makes a teacher's answer unfit for training.

    `language` looks at the script, and among languages in Latin script at frequent small words: it
    notices an answer in another language of its list (de, en, es, fr, it, nl, pt) once that has
    some words, and no difference in a few words, names or numbers.
    """

    min_characters: int = Field(default=1, ge=0, description="of an answer")
    max_characters: int | None = Field(default=None, gt=0, description="of an answer")
    min_words: int = Field(
        default=0, ge=0, description="of an answer; each character of Chinese or Japanese is one"
    )
    max_words: int | None = Field(default=None, gt=0, description="of an answer")
    max_repetition: float = Field(
        default=0.5,
        gt=0,
        le=1,
        description="largest share of an answer that may repeat itself: its 4-grams of words, its "
        "lines, or one piece over and over; 1: any",
    )
    must_finish: bool = Field(default=True, description="an answer cut by max_new_tokens is unfit")
    refusals: bool = Field(
        default=True, description="an answer that begins as English refusals do is unfit"
    )
    forbidden: tuple[str, ...] = Field(
        default=(), description="regular expressions of which none may be found in an answer"
    )
    pattern: str | None = Field(
        default=None, description="regular expression the whole answer must match"
    )
    format: Literal["text", "json", "list", "one_of"] = Field(
        default="text",
        description="json: the whole answer parses; list: separated by commas; one_of: one of "
        "`choices`, to the letter",
    )
    min_items: int = Field(default=1, gt=0, description="of format: list")
    choices: tuple[str, ...] = Field(default=(), description="of format: one_of")
    language: Language | None = Field(default=None, description="of an answer; default: any")
    min_mean_log_probability: float | None = Field(
        default=None, le=0, description="per token of the answer, under the teacher"
    )
    min_agreement: float | None = Field(
        default=None, ge=0, le=1, description="with the other answers to the sample, token F1"
    )
    max_unfit_share: float = Field(default=0.2, ge=0, le=1, description="above it the run stops")

    @model_validator(mode="after")
    def _patterns_compile(self) -> Checks:
        patterns = {f"forbidden.{n}": text for n, text in enumerate(self.forbidden)}
        for where, text in {**patterns, "pattern": self.pattern or ""}.items():
            try:
                regex.compile(text)
            except (regex.error, RecursionError, OverflowError) as error:
                raise UsageError(f"not a regular expression ({error})", where=where) from error
        return self

    @model_validator(mode="after")
    def _options_fit_together(self) -> Checks:
        if (self.format == "one_of") != bool(self.choices):
            raise UsageError("format: one_of and choices need one another", where="choices")
        if self.min_items > 1 and self.format != "list":
            raise UsageError("needs format: list", where="min_items")
        for unit in ("characters", "words"):
            least, most = getattr(self, f"min_{unit}"), getattr(self, f"max_{unit}")
            if most is not None and least > most:
                raise UsageError(f"is above max_{unit}", where=f"min_{unit}")
        return self


class Labelling(Section):
    """What the teacher is asked for, and what of its distribution is kept."""

    split: str | Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        default="train", description="whose samples are labelled; one split or several"
    )
    limit: int | None = Field(
        default=None, gt=0, description="samples to distil on, also of the control"
    )
    answers: Literal["generated", "gold"] = Field(
        default="generated",
        description="whose answer is scored: the teacher's own, or the first reference",
    )
    gold_share: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="of the samples that have a reference: for so many it is the answer, in place "
        "of the teacher's own; drawn by seed and sample id",
    )
    max_new_tokens: int = Field(default=128, gt=0, description="limit of an answer")
    temperature: float = Field(default=0.0, ge=0, description="0 decodes greedily")
    seed: Seed = Field(default=0, description="of sampled answers (temperature above 0)")
    samples: int = Field(
        default=1, ge=1, le=64, description="answers to each sample, of which one is kept"
    )
    choose: str | None = Field(
        default=None,
        description="with samples above 1: agreement: the one most like the others (default); "
        "confidence: the one of the highest mean log-probability; first; reference:METRIC: the one "
        "nearest the references, and by agreement where there are none",
    )
    batch_size: int = Field(default=8, gt=0, description="samples labelled at once")
    share_prefix: SharePrefix = False
    workers: int = Field(default=0, ge=0, description="processes that prepare pictures")
    signal: Literal["top_k", "hidden", "live", "none"] = Field(
        default="top_k",
        description="top_k: the likeliest tokens, cached; hidden: hidden states and head, cached; "
        "live: the teacher runs while the student trains",
    )
    top_k: int = Field(default=64, gt=0, description="of top_k: tokens kept per answer position")
    temperatures: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        default=(1.0,), min_length=1, description="of top_k: those that losses may ask for"
    )
    checks: Checks = Field(default=Checks(), description="what makes an answer unfit")

    @property
    def splits(self) -> tuple[str, ...]:
        """The names of `split`, one or several."""
        return (self.split,) if isinstance(self.split, str) else self.split

    @property
    def chosen_by(self) -> str:
        """`choose` with its default."""
        return self.choose or "agreement"

    @property
    def needs_confidence(self) -> bool:
        """Whether log-probabilities decide which answers are kept."""
        chosen = self.samples > 1 and self.chosen_by == "confidence"
        return chosen or self.checks.min_mean_log_probability is not None

    @model_validator(mode="after")
    def _answers_can_be_had(self) -> Labelling:
        if self.gold_share is not None and self.answers == "gold":
            raise UsageError("needs answers: generated", where="gold_share")
        if self.samples == 1:
            if self.choose is not None:
                raise UsageError("needs samples above 1", where="choose")
            if self.checks.min_agreement is not None:
                raise UsageError("needs label.samples above 1", where="checks.min_agreement")
            return self
        if self.answers == "gold":
            raise UsageError("needs answers: generated", where="samples")
        if self.temperature == 0:
            raise UsageError(
                "greedy decoding gives the same answer every time",
                where="samples",
                mend="set label.temperature above 0",
            )
        _require_way_to_choose(self.chosen_by)
        return self


def _require_way_to_choose(by: str) -> None:
    if by in ("agreement", "confidence", "first"):
        return
    if not by.startswith(REFERENCE):
        raise UsageError(
            f"{by[:80]!r} is no way to choose",
            where="choose",
            mend="choose one of agreement, confidence, first, reference:METRIC",
        )
    try:
        metric = cast("type[Any]", component_class("limbeck.metrics", by.removeprefix(REFERENCE)))
    except UsageError as error:
        raise UsageError(error.what, where="choose", mend=error.mend) from error
    if metric.reads_corpus:
        raise UsageError(
            f"{by.removeprefix(REFERENCE)} depends on all samples and says nothing of one",
            where="choose",
            mend=f"use {REFERENCE}rouge_l, for example",
        )
