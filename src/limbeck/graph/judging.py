"""The stage in which a model judges the answers, and whether that model may judge.

The teacher may not, unless forced: models favour what they wrote themselves (Panickssery et al.
2024, arXiv:2404.13076; Zheng et al. 2023, arXiv:2306.05685, section 3.3), and the student copies
it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from limbeck.data.samples import read_samples
from limbeck.errors import LimbeckError, UsageError
from limbeck.graph.core import Graph
from limbeck.graph.teacher import TeacherOf, teacher_of
from limbeck.recipe import Arm
from limbeck.recipe.judging import Judge
from limbeck.recipe.sections import ModelSection
from limbeck.stages import Stage
from limbeck.store import fingerprint
from limbeck.teachers import Teacher

Inputs = Mapping[str, Path]

SMALL_PARAMETERS = 7_000_000_000
"""Judges below this agree less with people (Thakur et al. 2024, arXiv:2406.12624)."""


def judge_stage(
    graph: Graph, predictions: Sequence[tuple[Arm, Stage]], teacher: TeacherOf
) -> Stage | None:
    """Let the recipe's judge compare or grade the answers; None where there is no judge.

    Raises:
        UsageError: the judge is the teacher, or is to judge what is not evaluated.
    """
    settings = graph.recipe.evaluate
    section = settings.judge
    if section is None:
        return None
    pairs = _pairs(section, [arm.name for arm, _ in predictions])
    named = {name for pair in pairs for name in pair}
    if section.mode == "pointwise":
        named = set(section.models or [arm.name for arm, _ in predictions])
        _require_evaluated(sorted(named), predictions, "models")
        first, *others = [n for n in _in_order(predictions) if n in named]
        pairs = [(first, other) for other in others]
    judged = [(arm, stage) for arm, stage in predictions if arm.name in named]
    answerer = teacher_of(graph, cast(Teacher, section.model))
    same = bool(_is(answerer) & _is(teacher))
    if same and not section.force_teacher:
        raise UsageError(
            "the teacher would judge its own answers and those of a student that copies it",
            where="evaluate.judge.model",
            mend="name another model, or set evaluate.judge.force_teacher: true and read the"
            " warning in the report",
        )
    arms = [(arm.id, arm.name, arm.seed) for arm, _ in judged]
    student = graph.recipe.student

    def make(output: Path, inputs: Inputs) -> dict[str, Any]:
        from limbeck.evaluate.judge.stage import judge

        model = answerer.located(inputs, "judge")
        about = _about(answerer, model)
        about["forced_teacher"] = same
        relatives = {"teacher": _families(teacher.teacher), "student": _families(student)}
        about["warnings"] = _warnings(about, relatives, _families(answerer.teacher), same)
        return judge(
            output,
            model=model,
            settings=settings,
            models=[(*arm, inputs[arm[0]]) for arm in arms],
            pairs=pairs,
            samples=read_samples(inputs["data"], settings.split, settings.limit),
            data=inputs["data"],
            device=graph.device,
            responses=graph.responses,
            about=about,
        )

    from limbeck.evaluate.judge.questions import prompt_texts

    identity = {
        "judge": answerer.identity,
        "settings": section.model_dump(mode="json", exclude={"model", "force_teacher"}),
        "prompt": prompt_texts(section),
        "arms": arms,
        "pairs": pairs,
        "evaluate": settings.model_dump(
            mode="json", include={"split", "limit", "bootstrap", "confidence", "seed"}
        ),
        "families": [sorted(_families(one)) for one in (teacher.teacher, student)],
        "is_teacher": same,
    }
    reads = {
        "data": graph.data,
        **{arm.id: stage for arm, stage in judged},
        **answerer.reads("judge"),
    }
    title = f"{section.mode} by {_name(answerer.teacher)}"
    return graph.add(Stage("judge", title, "evaluate", identity, reads, make))


def _pairs(section: Judge, evaluated: Sequence[str]) -> list[tuple[str, str]]:
    if section.mode == "pointwise":
        return []
    if section.pairs is None:
        others = [name for name in ("control", "teacher") if name in evaluated]
        if "student" not in evaluated or not others:
            raise UsageError(
                "there is nothing to compare: no student beside a control or teacher is evaluated",
                where="evaluate.judge.pairs",
                mend="list pairs of evaluate.models",
            )
        return [("student", other) for other in others]
    for index, pair in enumerate(section.pairs):
        for name in pair:
            if name not in evaluated:
                raise _not_evaluated(name, f"pairs.{index}", evaluated)
    return list(section.pairs)


def _require_evaluated(
    names: Sequence[str], predictions: Sequence[tuple[Arm, Stage]], field: str
) -> None:
    evaluated = _in_order(predictions)
    for name in names:
        if name not in evaluated:
            raise _not_evaluated(name, field, evaluated)


def _in_order(predictions: Sequence[tuple[Arm, Stage]]) -> list[str]:
    return list(dict.fromkeys(arm.name for arm, _ in predictions))


def _not_evaluated(name: str, field: str, evaluated: Sequence[str]) -> UsageError:
    return UsageError(
        f"{name!r} is not among what is evaluated",
        where=f"evaluate.judge.{field}",
        mend=f"choose from {', '.join(dict.fromkeys(evaluated))}",
    )


def _is(one: TeacherOf) -> set[str]:
    """What tells that two are the same model, whatever runs it and wherever it is served."""
    if one.members:
        return {key for member in one.members for key in _is(member)}
    found: set[str] = set()
    own = one.model
    if own is not None and own.stage is not None:
        return {f"stage {own.stage.fingerprint}"}
    weights = own.weights if own is not None else (one.served or {}).get("weights")
    if weights is not None:
        found.add(fingerprint(weights))
    name = getattr(one.teacher, "model", None)
    if isinstance(name, str):
        folder = Path(name).expanduser()
        adapter = getattr(one.teacher, "adapter_path", None)
        known = str(folder.resolve()) if folder.is_dir() else name.rstrip("/").split("/")[-1]
        found.add(f"model {known.casefold()} {adapter or ''}")
    return found


def _name(teacher: Teacher) -> str:
    if members := teacher.members():
        return " + ".join(_name(member) for member in members)
    return str(getattr(teacher, "model", None) or f"a built model ({teacher.word})")


def _about(answerer: TeacherOf, located: Teacher) -> dict[str, Any]:
    """Name, version and size, for results."""
    teacher = answerer.teacher
    return {
        "name": _name(teacher),
        "backend": teacher.word,
        "revision": getattr(teacher, "revision", None),
        "identity": answerer.identity,
        "made_by": [stage.fingerprint for stage in answerer.reads("judge").values()],
        "parameters": _parameters(located) if answerer.model is not None else None,
    }


def _parameters(teacher: Teacher) -> int | None:
    """Counted from the heads of the weight files."""
    import math

    from safetensors import safe_open

    from limbeck.models.source import model_folder

    section = getattr(teacher, "teacher", teacher)
    folder = model_folder(section.model, section.revision)
    total = 0
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="numpy") as weights:
            total += sum(math.prod(weights.get_slice(k).get_shape()) for k in weights.keys())  # noqa: SIM118
    return total or None


def _families(section: Any) -> set[str]:
    """The first letters of the names that a model goes by: qwen of Qwen2-VL-7B and of qwen2_vl."""
    return {m[0] for name in _names(section) if (m := re.match(r"[a-z]{3,}", name.casefold()))}


def _names(section: Any) -> Iterator[str]:
    from limbeck.models.source import model_config

    if isinstance(section, Teacher):
        for member in section.members():
            yield from _names(member)
    if (build := getattr(section, "build", None)) is not None:
        yield build.family
    if (compose := getattr(section, "compose", None)) is not None:
        yield compose.language.split("/")[-1]
    name = getattr(section, "model", None)
    if not isinstance(name, str):
        return
    if not Path(name).expanduser().is_dir():
        yield name.rstrip("/").split("/")[-1]
    try:
        found = model_config(ModelSection(model=name, revision=getattr(section, "revision", None)))
        yield str(found.get("model_type", ""))
    except LimbeckError:
        return  # served, or not on this machine, which the plan says where it matters


def _warnings(
    about: Mapping[str, Any], relatives: Mapping[str, set[str]], own: set[str], same: bool
) -> list[str]:
    found: list[str] = []
    if same:
        found.append(
            "THE JUDGE IS THE TEACHER (forced): it judges its own answers and those of students "
            "that copy it; models favour what they wrote themselves, so its verdicts are no "
            "evidence for teacher or student"
        )
    shared = {who: sorted(own & theirs) for who, theirs in relatives.items()}
    for family in dict.fromkeys(name for names in shared.values() for name in names):
        who = " and ".join(one for one, names in shared.items() if family in names)
        if not same:
            found.append(
                f"the judge is of the family of {who} ({family}): judges favour answers of their "
                "own family"
            )
    size = about["parameters"]
    if size is not None and size < SMALL_PARAMETERS:
        found.append(
            f"the judge is small ({size / 1e9:.2g} billion parameters): small judges agree less "
            "with people"
        )
    return found
