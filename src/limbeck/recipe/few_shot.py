"""Which gold examples a teacher is shown before it is asked."""

from __future__ import annotations

from pydantic import Field, model_validator

from limbeck.recipe.component import Section
from limbeck.recipe.sections import Seed


class FewShot(Section):
    """Gold examples as earlier turns of the conversation, with their pictures.

    A sample is never shown itself, nor one that shares a picture with it; the next example stands
    in, or with `ids` there is one less.
    """

    count: int | None = Field(default=None, gt=0, description="how many are drawn")
    ids: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="or these samples, in this order"
    )
    split: str = Field(default="train", description="whose samples are drawn from")
    seed: Seed = Field(default=0, description="of the draw")

    @model_validator(mode="after")
    def _one_of_both(self) -> FewShot:
        if (self.count is None) == (self.ids is None):
            raise ValueError("needs either count or ids")
        if self.ids and len(set(self.ids)) != len(self.ids):
            raise ValueError("a sample is listed twice in ids")
        return self
