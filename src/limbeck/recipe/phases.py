"""Phases: what a student is trained on further, after the recipe's own training."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SerializeAsAny

from limbeck.recipe.component import Component, Section, component_field
from limbeck.recipe.sections import Adapter, PartName, Training

LossField = Annotated[SerializeAsAny[Component], component_field("limbeck.losses", "kind")]


class Phase(Section):
    """A further training on the same labels, from the student that the one before has made.

    An adapter of the one before is merged into the weights; what belonged to its losses alone
    (projectors, verbalisers) is left behind. The control has the same phases, with plain
    cross-entropy in each.
    """

    losses: tuple[LossField, ...] = Field(
        min_length=1, description="terms of the objective, summed by weight"
    )
    training: Training | None = Field(default=None, description="default: the recipe's own")
    adapter: Adapter | None = Field(
        default=None, description="default: none, every part is trained that is not frozen"
    )
    freeze: tuple[PartName, ...] = Field(default=(), description="parts that are not trained")
