"""How many tokens a picture may become for teacher and student; what a plan shows of it."""

from __future__ import annotations

from typing import Any

from limbeck.errors import LimbeckError
from limbeck.recipe import Recipe
from limbeck.recipe.sections import ModelSection

LARGE_SIDE_PIXELS = 8192
"""A square picture so large that the budget, not the picture, decides."""


def visual_budgets(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """For teacher and student: the pixel budget, and the most tokens that a picture becomes.

    The count is None where it is not known without loading: a model that is not on this machine, a
    family that cuts pictures into tiles, or a teacher behind a server.
    """
    sections = {"teacher": recipe.teacher, "student": recipe.student}
    return {
        name: {
            "min_pixels": section.min_pixels,
            "max_pixels": section.max_pixels,
            "visual_tokens_at_most": most_picture_tokens(section),
        }
        for name, section in sections.items()
        if isinstance(section, ModelSection)
    }


def most_picture_tokens(section: ModelSection) -> int | None:
    """The most tokens that one picture becomes; None where that is not known without loading."""
    return picture_tokens(section, LARGE_SIDE_PIXELS, LARGE_SIDE_PIXELS)


def picture_tokens(section: ModelSection, width: int, height: int) -> int | None:
    """The tokens that a picture of these sides (pixels) becomes; None where it is not known."""
    from limbeck.models.family import family_named
    from limbeck.models.source import visual_tokens

    if section.build is not None:
        pixels = (section.min_pixels, section.max_pixels)
        return family_named(section.build.family).picture_tokens(
            section.build, width, height, pixels
        )
    if section.model is None:
        return None
    try:
        return visual_tokens(section, width, height)
    except LimbeckError:  # not on this machine: a problem of the plan already
        return None
