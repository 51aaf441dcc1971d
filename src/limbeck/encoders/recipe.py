"""The recipe of the encoder study: data sets x teachers x students x arms x seeds."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from limbeck.errors import UsageError
from limbeck.recipe.component import Component, Section, Seed, component_field
from limbeck.recipe.recipe import NAME

SourceField = Annotated[
    SerializeAsAny[Component], component_field("limbeck.encoders.sources", "source")
]
TeacherField = Annotated[
    SerializeAsAny[Component], component_field("limbeck.encoders.teachers", "kind")
]
StudentField = Annotated[
    SerializeAsAny[Component], component_field("limbeck.encoders.students", "kind")
]
LossField = Annotated[SerializeAsAny[Component], component_field("limbeck.encoders.losses", "kind")]
Name = Annotated[str, Field(pattern=NAME)]

CROSS_ENTROPY = "cross_entropy"
"""The arm that every recipe has: the same student for the same epochs on the labels alone."""


class EncoderTraining(Section):
    """How students are trained; the rate is constant, so that epoch 5 of 10 is epoch 5 of 5."""

    epochs: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        default=(5, 10), min_length=1, description="after which a student is scored; the last ends"
    )
    batch_size: int = Field(default=64, gt=1, description="samples")
    learning_rate: float = Field(default=1e-3, gt=0, description="of AdamW")
    weight_decay: float = Field(default=0.01, ge=0, description="of AdamW")
    clip_norm: float = Field(default=1.0, gt=0, description="of the gradient")
    augment: Literal["none", "flip"] = Field(
        default="none", description="of the pixels of students that take them; flip: left to right"
    )

    @model_validator(mode="after")
    def _increasing(self) -> EncoderTraining:
        if sorted(set(self.epochs)) != list(self.epochs):
            raise UsageError("has to increase", where="epochs")
        return self


class EncoderEvaluation(Section):
    """How students are scored, always over the whole split."""

    neighbours: int = Field(default=10, gt=0, description="of kNN")
    probe_l2: float = Field(default=1e-3, ge=0, description="weight decay of the linear probe")
    bootstrap: int = Field(default=1000, ge=100, description="resamples of every interval")
    confidence: float = Field(default=0.95, gt=0.5, lt=1)


class EncoderCosts(Section):
    """How what is deployed is timed: one picture at a time, in a process of its own."""

    enabled: bool = Field(default=True, description="false: no deployed size, latency or memory")
    samples: int = Field(default=16, gt=0, description="test pictures")
    repeats: int = Field(default=3, gt=0, description="passes over them")
    warmup: int = Field(default=3, ge=0, description="pictures before the first counted one")


class EncoderArm(Section):
    """One way to train the students."""

    losses: tuple[LossField, ...] = Field(min_length=1, description="terms, summed by weight")


class EncoderRecipe(Section):
    """An encoder study from data to report."""

    name: str = Field(pattern=NAME, description="names the run's folder")
    work: str = Field(default="work", min_length=1, description="folder for all that is computed")
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    seeds: tuple[Seed, ...] = Field(
        default=(0, 1, 2), min_length=1, description="each trains every arm anew"
    )
    datasets: dict[Name, SourceField] = Field(min_length=1, description="name -> source")
    teachers: dict[Name, TeacherField] = Field(min_length=1, description="name -> teacher")
    students: dict[Name, StudentField] = Field(min_length=1, description="name -> student")
    arms: dict[Name, EncoderArm] = Field(
        min_length=1, description=f"name -> losses; {CROSS_ENTROPY} is added"
    )
    training: EncoderTraining = Field(default_factory=EncoderTraining)
    evaluate: EncoderEvaluation = Field(default_factory=EncoderEvaluation)
    benchmark: EncoderCosts = Field(default_factory=EncoderCosts)

    @model_validator(mode="after")
    def _fits(self) -> EncoderRecipe:
        if len(set(self.seeds)) != len(self.seeds):
            raise UsageError("a seed is listed twice", where="seeds")
        if CROSS_ENTROPY in self.arms:
            raise UsageError(
                "every recipe has this arm; choose another name", where=f"arms.{CROSS_ENTROPY}"
            )
        return self

    def all_arms(self) -> dict[str, EncoderArm]:
        """The recipe's arms, and plain cross-entropy."""
        from limbeck.encoders.losses.cross_entropy import CrossEntropy

        return {CROSS_ENTROPY: EncoderArm(losses=(CrossEntropy(),)), **self.arms}
