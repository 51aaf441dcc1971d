"""The stages collected so far, and what prevents them from being made."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from limbeck.errors import UsageError
from limbeck.graph.checks import (
    check_growth,
    check_head_gradient,
    check_shared_prefixes,
    check_shown_examples,
    check_signals,
    check_vision_cache,
)
from limbeck.recipe import Arm, Recipe, arms_of
from limbeck.recipe.design import design_of
from limbeck.recipe.sections import ModelSection
from limbeck.stages import Stage, StageList, device_of
from limbeck.teachers import Teacher

if TYPE_CHECKING:
    from limbeck.graph.teacher import TeacherOf


class Graph(StageList):
    """A recipe's stages, each after those that it reads.

    `problems` holds everything that would prevent a run, such as data or models that are not on
    this machine; the stages are listed all the same. `data` is the first stage, which nearly every
    other one reads; `models` are the arms with what answers for each; `responses` is where served
    teachers keep the answers that were paid for.
    """

    data: Stage
    models: list[tuple[Arm, TeacherOf | None]]

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.recipe = recipe
        self.arms = arms_of(recipe)
        self.design = design_of(recipe)
        self.teacher = cast(Teacher, recipe.teacher)
        check_signals(recipe, [], self.teacher.capabilities())
        check_shown_examples(recipe, self.teacher)
        trainings = [one for arm in self.arms for one in arm.trainings()]
        for one in trainings:
            self._check_side(one)
        check_vision_cache(trainings)
        check_head_gradient(trainings)
        check_shared_prefixes(trainings)
        self.device = device_of(recipe.device)
        self.responses = Path(recipe.work) / "responses"

    def _check_side(self, arm: Arm) -> None:
        """An arm may have a teacher and labels of its own."""
        recipe, teacher = arm.recipe, cast(Teacher, arm.recipe.teacher)
        try:
            check_signals(recipe, [arm], teacher.capabilities())
            check_shown_examples(recipe, teacher)
            check_growth([arm], teacher.capabilities())
        except UsageError as error:
            own = self.recipe
            shared = (recipe.teacher, recipe.label) == (own.teacher, own.label)
            if shared or not error.where or error.where.startswith("arms."):
                raise
            where = f"arms.{arm.name}.{error.where}"
            raise UsageError(error.what, where=where, mend=error.mend) from error

    def adapter(self, section: ModelSection) -> Any:
        """What identifies the adapter that goes on a section's weights; None where there is none.

        It is told apart from the weights where a stage makes those.
        """
        from limbeck.models.source import adapter_identity

        return self.identify(lambda: adapter_identity(section)) or None

    def weights(self, section: ModelSection) -> Any:
        """What identifies the weights of a hub id or a folder."""
        from limbeck.models.source import model_identity

        return self.identify(lambda: model_identity(section))
