"""The stages of public benchmarks: questions, answers of each model, scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import UsageError
from limbeck.graph.core import Graph
from limbeck.graph.teacher import TeacherOf
from limbeck.recipe import Arm
from limbeck.recipe.public import Public
from limbeck.recipe.recipe import has_cost
from limbeck.stages import Stage

Inputs = Mapping[str, Path]


def public_stage(graph: Graph, models: Sequence[tuple[Arm, TeacherOf | None]]) -> Stage | None:
    """Run the models on the recipe's public benchmarks; None where it has none.

    Raises:
        UsageError: a model is listed that is not evaluated or answers nothing.
    """
    settings = graph.recipe.public
    if settings is None:
        return None
    chosen = [(arm, model) for arm, model in models if model is not None and has_cost(arm.name)]
    known = list(dict.fromkeys(arm.name for arm, _ in chosen))
    for index, name in enumerate(settings.models or ()):
        if name not in known:
            raise UsageError(
                f"{name!r} is not a model that is evaluated",
                where=f"public.models.{index}",
                mend=f"choose from {', '.join(known)}",
            )
    chosen = [(arm, model) for arm, model in chosen if arm.name in (settings.models or known)]
    questions = _questions_stage(graph, settings)
    answers = [(arm, _answers_stage(graph, arm, model, questions)) for arm, model in chosen]
    arms = [(arm.id, arm.name, arm.seed) for arm, _ in answers]
    confidence = graph.recipe.evaluate.confidence

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.evaluate.public.stages import score_answers

        return score_answers(
            output,
            questions=inputs["questions"],
            models=[(*arm, inputs[arm[0]]) for arm in arms],
            settings=settings,
            confidence=confidence,
        )

    identity = {"public": _asked(settings), "arms": arms, "confidence": confidence}
    reads = {"questions": questions, **{arm.id: stage for arm, stage in answers}}
    title = ", ".join(settings.tasks)
    return graph.add(Stage("public", title, "public", identity, reads, make))


def _questions_stage(graph: Graph, settings: Public) -> Stage:
    def make(output: Path, _: Inputs) -> dict[str, Any]:
        from limbeck.evaluate.public.stages import collect_questions

        return collect_questions(output, settings)

    identity: dict[str, Any] = {"public": _asked(settings)}
    if settings.include is not None:
        from limbeck.data.sources import folder_stamp

        include = Path(settings.include).expanduser()
        identity["include"] = graph.identify(lambda: folder_stamp(include))
    title = ", ".join(settings.tasks)
    return graph.add(Stage("questions", title, "public", identity, {}, make))


def _answers_stage(graph: Graph, arm: Arm, model: TeacherOf | None, questions: Stage) -> Stage:
    assert model is not None
    settings, evaluation = graph.recipe.public, graph.recipe.evaluate
    assert settings is not None

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.evaluate.public.stages import answer_questions

        # Only examples that a teacher is shown come from the recipe's own data.
        places = {"data": inputs["questions"], **inputs}
        return answer_questions(
            output,
            model=model.located(places, "model"),
            questions=inputs["questions"],
            settings=settings,
            evaluation=evaluation,
            device=graph.device,
            responses=graph.responses,
        )

    identity = {
        "model": model.identity,
        "public": settings.model_dump(mode="json", include={"max_new_tokens", "batch_size"}),
    }
    reads = {"questions": questions, **model.reads("model")}
    if _shown_examples(model):
        reads["data"] = graph.data
    title = f"{arm.id} on public benchmarks"
    return graph.add(Stage("predictions", title, "public", identity, reads, make))


def _shown_examples(model: TeacherOf) -> bool:
    shown = model.teacher.few_shot is not None
    return shown or any(_shown_examples(member) for member in model.members)


def _asked(settings: Public) -> dict[str, Any]:
    return settings.model_dump(mode="json", include={"tasks", "limit"})
