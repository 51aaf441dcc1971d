"""The recipe's section `evaluate.judge`: which model judges the answers, and what it is told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny, model_validator

from limbeck.errors import UsageError
from limbeck.recipe.component import Component, Section, component_field

JudgeField = Annotated[SerializeAsAny[Component], component_field("limbeck.teachers", "backend")]

CRITERIA = (
    "A good answer is true of the picture, answers what was asked and leaves out nothing that was "
    "asked for. Length and style do not count."
)


class Judge(Section):
    """A model that compares or grades the answers of the evaluated models.

    Before it judges it is tried on pairs of which the better answer is known. It must not be the
    teacher. Every pair of answers is shown in both orders.
    """

    model: JudgeField = Field(description="any teacher backend, with its fields")
    mode: Literal["pairwise", "pointwise"] = Field(
        default="pairwise", description="compare two answers, or grade each"
    )
    pairs: tuple[tuple[str, str], ...] | None = Field(
        default=None,
        description="pairwise: arms to compare; default: student with control and with teacher, "
        "as far as they are evaluated",
    )
    models: tuple[str, ...] | None = Field(
        default=None, description="pointwise: arms to grade; default: those of evaluate.models"
    )
    criteria: str = Field(
        default=CRITERIA, min_length=1, description="what makes an answer good; goes to the judge"
    )
    scale: int = Field(default=5, ge=2, le=100, description="pointwise: grades from 1 to this")
    limit: int | None = Field(
        default=100, gt=0, description="samples that are judged, evenly spaced; null: all evaluated"
    )
    calibration: int = Field(
        default=20,
        ge=0,
        description="samples with references, of which pairs with a known better answer are made; "
        "0: none, and the judge is taken to be unusable",
    )
    show_pictures: bool = Field(default=True, description="the judge sees the sample's pictures")
    show_references: bool = Field(default=True, description="the judge sees the gold answers")
    max_new_tokens: int = Field(default=256, gt=0, description="limit of the judge's reply")
    batch_size: int = Field(default=8, gt=0, description="questions to a judge here at once")
    force_teacher: bool = Field(
        default=False, description="let the teacher itself judge, with a warning in the report"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Judge:
        if self.mode == "pairwise" and self.models is not None:
            raise UsageError("belongs to mode: pointwise", where="models", mend="give pairs")
        if self.mode == "pointwise" and self.pairs is not None:
            raise UsageError("belongs to mode: pairwise", where="pairs", mend="give models")
        for index, (a, b) in enumerate(self.pairs or ()):
            if a == b:
                raise UsageError("compares an arm with itself", where=f"pairs.{index}")
            if {a, b} in [{*pair} for pair in (self.pairs or ())[:index]]:
                raise UsageError("is listed twice", where=f"pairs.{index}")
        if len(set(self.models or ())) != len(self.models or ()):
            raise UsageError("lists an arm twice", where="models")
        if getattr(self.model, "few_shot", None) is not None:
            raise UsageError(
                "gold examples of the task would not show it how to judge",
                where="model.few_shot",
                mend="say what counts in criteria",
            )
        return self
