"""Which models of a recipe can be compared: those whose weights are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from limbeck.errors import DataError, UsageError
from limbeck.graph import graph_of
from limbeck.graph.teacher import TeacherOf
from limbeck.recipe import Recipe
from limbeck.recipe.recipe import has_cost
from limbeck.stages import Stage
from limbeck.store import Store

DEFAULT = ("teacher", "baseline", "student")


@dataclass(frozen=True)
class Compared:
    """A model that answers: an arm of the recipe, of one seed where it has several.

    Attributes:
        name: as it was asked for.
        id: the arm with its seed.
        answerer: the model; `inputs` are the folders of the stages that it reads.
        device: where it runs.
    """

    name: str
    id: str
    answerer: TeacherOf
    inputs: Mapping[str, Path]
    device: str
    responses: Path

    @property
    def local(self) -> bool:
        """Whether it runs in a process of ours, whose memory can be read."""
        return self.answerer.model is not None


@dataclass(frozen=True)
class Comparison:
    """Models to compare, and the data stage whose pictures can be asked about."""

    models: tuple[Compared, ...]
    data: Path


def comparison_of(
    recipe: Recipe, names: Sequence[str] = DEFAULT, *, verify: bool = True
) -> Comparison:
    """Find the models of a recipe that was run.

    Args:
        recipe: whose models are compared.
        names: arms (of the first seed where there are several), or an arm with its seed as reports
            have it: `student-seed1`.
        verify: whether the stages' files are hashed.

    Raises:
        UsageError: a name that is no model.
        DataError: a model's stage, or the data, has not been made.
        LimbeckError: the recipe cannot run as it is.
    """
    if len(set(names)) < len(names) or not names:
        raise UsageError("name each model once, at least one", where="--models")
    arms = {name: name.partition("-seed")[0] for name in names}
    for name, arm in arms.items():
        if not has_cost(arm):
            raise UsageError(
                f"{name!r} is no model of its own", where="--models", mend="name an arm"
            )
    graph = graph_of(recipe.also_evaluating(arms.values()))
    if graph.problems:
        raise graph.problems[0]
    store = Store(Path(recipe.work))
    data = _folder(store, graph.data, "the data", verify)
    compared: list[Compared] = []
    for name, arm_name in arms.items():
        own = [(arm, model) for arm, model in graph.models if name in (arm.id, arm.name)]
        if not own:
            seeds = ", ".join(arm.id for arm, _ in graph.models if arm.name == arm_name)
            raise UsageError(f"{name!r} is no model", where="--models", mend=f"choose from {seeds}")
        arm, model = own[0]
        assert model is not None, "what is no model was refused"
        reads = model.reads("model")
        folders = {key: _folder(store, stage, arm.id, verify) for key, stage in reads.items()}
        inputs = {"data": data, **folders}
        compared.append(Compared(name, arm.id, model, inputs, graph.device, graph.responses))
    return Comparison(tuple(compared), data)


def _folder(store: Store, stage: Stage, what: str, verify: bool) -> Path:
    if not store.is_complete(stage.kind, stage.fingerprint):
        raise DataError(
            f"{what} is not there yet",
            where=str(store.folder(stage.kind, stage.fingerprint)),
            mend=f"run limbeck {stage.command} first, or leave it out of --models",
        )
    return store.open(stage.kind, stage.fingerprint, contents=verify)
