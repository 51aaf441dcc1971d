"""Arms: the students (and the two untrained models) that one recipe compares.

An arm is the recipe with some fields overridden. The control (plain cross-entropy, same steps) is
an arm that every recipe has; a seed list multiplies the trained arms; the teacher and the baseline
(the student before training) are arms without training, as are the floors: any arm answering with
every picture blanked (`student_blanked`), the most frequent answer, and that of the nearest
training picture. Later stages see only a list of arms.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from limbeck.errors import UsageError
from limbeck.recipe.component import Component
from limbeck.recipe.loading import recipe_from, set_field
from limbeck.recipe.recipe import UNTRAINED, WITHOUT_MODEL, Recipe, sighted

OVERRIDABLE = ("data", "teacher", "label", "losses", "training", "student", "phases", "grow")
"""What makes a student; all else is equal for all arms, so that they can be compared."""


@dataclass(frozen=True)
class Arm:
    """One model to compare: its name, its seed, and the recipe that makes it.

    `seed` is None where no random choice goes into the model (the teacher; a baseline that is a
    pre-trained model). `phase` is the number of a further training, where the arm stands for that
    one alone.
    """

    name: str
    seed: int | None
    recipe: Recipe
    phase: int | None = None

    def trainings(self) -> list[Arm]:
        """The arm's first training and each of its phases, as arms without phases."""
        recipe = self.recipe
        found: list[Arm] = [replace(self, recipe=recipe.model_copy(update={"phases": ()}))]
        for number, phase in enumerate(recipe.phases):
            trained = {"adapter": phase.adapter, "freeze": phase.freeze}
            fields = {
                "losses": phase.losses,
                "training": phase.training or recipe.training,
                "student": recipe.student.model_copy(update=trained),
                "phases": (),
            }
            own = recipe.model_copy(update=fields)
            found.append(replace(self, recipe=own, phase=number))
        return found

    @property
    def phase_title(self) -> str:
        """What a phase adds to the title of a training."""
        return "" if self.phase is None else f" phase {self.phase + 1}"

    def place(self, field: str) -> str:
        """Where in the recipe a field of this arm's training stands, for errors."""
        arm = "" if self.name == "student" else f"arms.{self.name}."
        phase = "" if self.phase is None else f"phases.{self.phase}."
        return f"{arm}{phase}{field}"

    @property
    def trained(self) -> bool:
        """Whether this arm has a training stage of its own."""
        return self.name not in UNTRAINED and not self.blanked

    @property
    def blanked(self) -> bool:
        """Whether it answers with every picture blanked."""
        return sighted(self.name) != self.name

    @property
    def sighted(self) -> Arm:
        """The arm whose model a blanked arm is; any other is its own."""
        return replace(self, name=sighted(self.name))

    @property
    def id(self) -> str:
        """Name and seed, as used in file names and tables."""
        return self.name if self.seed is None else f"{self.name}-seed{self.seed}"


def arms_of(recipe: Recipe, names: Iterable[str] | None = None) -> list[Arm]:
    """The arms that `evaluate.models` (or `names`) lists, multiplied by the seeds.

    Raises:
        UsageError: a name that is no arm, or an arm whose overrides do not fit the schema.
    """
    own = {
        "student": {},
        "control": control_overrides(recipe),
        **earlier_rounds(recipe),
        **recipe.arms,
    }
    from limbeck.recipe.design import ablated  # which overrides recipes as this module does

    points = ablated(recipe)
    chosen: list[Arm] = []
    for name in names if names is not None else _evaluated(recipe, points):
        base = sighted(name)
        if base == "teacher" or name in WITHOUT_MODEL:
            chosen.append(Arm(name, None, recipe))
        elif base == "baseline":
            student = recipe.student
            random_start = (student.build or student.compose) is not None
            seeds = recipe.seeds if random_start else (None,)
            chosen += [Arm(name, seed, recipe) for seed in seeds]
        elif base in points or base in own:
            overridden = points.get(base) or override(recipe, own[base], where=f"arms.{base}")
            chosen += [Arm(name, seed, overridden) for seed in recipe.seeds]
        else:
            known = ", ".join(dict.fromkeys([*UNTRAINED, *own, *points]))
            raise UsageError(
                f"{name!r} is not an arm", where="evaluate.models", mend=f"known arms: {known}"
            )
    return chosen


def _evaluated(recipe: Recipe, points: Mapping[str, Recipe]) -> list[str]:
    """The listed models; of an ablation also its points, and the student as their base."""
    base = ["student"] if recipe.ablate is not None else []
    return list(dict.fromkeys([*recipe.evaluate.models, *base, *points]))


def control_overrides(recipe: Recipe) -> dict[str, Any]:
    """What makes the control: only the cross-entropy terms, and if there are none, one.

    It keeps the recipe's target (gold answer or teacher's text), so that control and student
    differ by the teacher's distributions alone, in each phase. Where the student's data grows, the
    control stays with the first labels, for as many steps as the student's weights have been
    trained in all.
    """
    phases = [
        {**phase.model_dump(mode="json"), "losses": plain_losses(phase.losses)}
        for phase in recipe.phases
    ]
    plain: dict[str, Any] = {"losses": plain_losses(recipe.losses)}
    return {**plain, **({"phases": phases} if phases else {}), **_without_growth(recipe)}


def earlier_rounds(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The arms `student_round1` and so on: the student before its data grew, or grew further."""
    if recipe.grow is None:
        return {}
    further = {f"student_round{n + 1}": {"grow.rounds": n} for n in range(1, recipe.grow.rounds)}
    return {"student_round1": {"grow": None}, **further}


def _without_growth(recipe: Recipe) -> dict[str, Any]:
    grow, steps = recipe.grow, recipe.training.steps
    if grow is None:
        return {}
    if grow.start_from == "initial" or steps is None:
        return {"grow": None}
    return {"grow": None, "training.steps": steps * (1 + grow.rounds)}


def plain_losses(losses: Sequence[Component]) -> list[dict[str, Any]]:
    """Only the cross-entropy terms, with weights that sum to one; if there are none, one."""
    plain = [loss.model_dump() for loss in losses if loss.model_dump()["kind"] == "cross_entropy"]
    total = sum(term["weight"] for term in plain)
    if not total:
        return [{"kind": "cross_entropy", "target": "teacher"}]
    return [{**term, "weight": term["weight"] / total} for term in plain]


def override(recipe: Recipe, fields: dict[str, Any], *, where: str) -> Recipe:
    """The recipe with some fields set anew, validated again."""
    for name in fields:
        if name.split(".")[0] not in OVERRIDABLE:
            raise UsageError(
                f"{name!r} cannot differ between arms",
                where=where,
                mend=f"an arm may override {', '.join(OVERRIDABLE)}; it is evaluated and measured "
                "as the recipe says, on the recipe's own data, like every other arm",
            )
    if not fields:
        return recipe
    values = recipe.model_dump(mode="json")
    for name, value in fields.items():
        set_field(values, name, value, where=f"{where}.{name}")
    return recipe_from(values, places=where)
