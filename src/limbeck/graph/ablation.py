"""What evaluation and benchmark have to know of an ablation's design."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.recipe.design import STUDENT, Design

if TYPE_CHECKING:
    from limbeck.evaluate.effects import Ablation


def ablation_of(design: Design) -> Ablation:
    """The axes whose effects are estimated, and which arms are compared in pairs."""
    from limbeck.evaluate.effects import Ablation, Factor

    factors: list[Factor] = []
    for axis in design.axes:
        contexts = [] if axis.listed else design.contexts(axis)
        if contexts and len(axis.levels) > 1:
            levels = [tuple(one[n] for one in contexts) for n in range(len(axis.levels))]
            factors.append(Factor(axis.path, tuple(levels)))
    pairs = frozenset(frozenset((p.arm, p.control)) for p in design.points if p.control)
    arms = {p.arm for p in design.points} | {p.control for p in design.points if p.control}
    return Ablation(tuple(factors), frozenset(arms - {STUDENT, "control"}), pairs)


def costs_as_the_base(design: Design | None, arm: str) -> bool:
    """Whether an arm is a point (or its control) with the model of the recipe's student."""
    if design is None or arm in (STUDENT, "control"):
        return False
    return any(arm in (p.arm, p.control) and p.as_base for p in design.points)
