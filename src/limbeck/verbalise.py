"""`limbeck verbalise`: what the layers of teacher and student say about a picture, side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from limbeck.compare.models import comparison_of
from limbeck.compare.questions import ask_about, question_of, store_upload
from limbeck.data.images import read_image
from limbeck.data.labels import read_labels
from limbeck.data.samples import read_samples
from limbeck.errors import DataError, UsageError
from limbeck.graph import Graph, graph_of
from limbeck.graph.models import trainings_behind
from limbeck.recipe import Arm, Recipe
from limbeck.recipe.recipe import has_cost
from limbeck.recipe.sections import ModelSection, Student
from limbeck.records import Sample
from limbeck.report.format import decimal, percent
from limbeck.report.stage_files import read_jsonl
from limbeck.stages import Stage
from limbeck.store import Store

OWN, THEIRS = "verbalisers/student", "verbalisers/teacher"
SHOWN = 3
"""Tokens told of a position on the terminal."""


def verbalise(
    recipe: Recipe,
    *,
    arm: str | None = None,
    seed: int | None = None,
    sample_id: str | None = None,
    image: Path | None = None,
    question: str | None = None,
    answer: str | None = None,
    top: int = 5,
) -> dict[str, Any]:
    """Let the target layers of teacher and student speak along one answer.

    Args:
        recipe: one of whose arms has a `verbalised` loss, and was trained.
        arm: which; default: the first that has.
        seed: of the arm; default: the first.
        sample_id: of the evaluation split; default: its first.
        image: a picture in place of a sample's.
        question: with `image`; default: the first sample's own.
        answer: along what they speak; default: the sample's first reference, or its label.
        top: tokens told of every position.

    Returns:
        The question, the answer, and for "student" and "teacher" a `Speech` as plain values; for
        the student also `matches`, the share of its choices that fell on each teacher's layer.

    Raises:
        UsageError: no arm has layers that speak, or there is no such seed, sample or answer.
        DataError: what is needed has not been made.
    """
    if seed is not None and seed not in recipe.seeds:
        seeds = ", ".join(map(str, recipe.seeds))
        raise UsageError(f"no seed is {seed}", where="--seed", mend=f"choose from {seeds}")
    graph = _graph(recipe, arm)
    found, stage = _speaking(graph, arm, seed)
    store = Store(Path(recipe.work))
    if not store.is_complete(stage.kind, stage.fingerprint):
        raise DataError(
            f"{found.id} has not been trained yet",
            where=str(store.folder(stage.kind, stage.fingerprint)),
            mend="run limbeck train first",
        )
    folders = {name: store.open(one.kind, one.fingerprint) for name, one in stage.reads.items()}
    student = store.open(stage.kind, stage.fingerprint)
    data = folders["data"]
    samples = read_samples(data, recipe.evaluate.split)
    with tempfile.TemporaryDirectory(prefix="limbeck-verbalise-") as uploads:
        if image is None:
            sample = _sample(samples, sample_id)
        else:
            upload = store_upload(read_image(image, where=str(image)), Path(uploads))
            sample = ask_about(upload, question or question_of(samples[0]), samples)
        text = answer or _answer(sample, folders["labels"])
        both = {
            "teacher": _speech(
                _teacher_section(found.recipe), folders[THEIRS], sample, data, text, top
            ),
            "student": _speech(
                _student_section(found.recipe.student, student),
                student / "verbalisers",
                sample,
                data,
                text,
                top,
            ),
        }
    rows = [row for row in read_jsonl(student / "metrics.jsonl") if row.get("matches")]
    return {
        "arm": found.id,
        "sample": sample.id,
        "question": question_of(sample),
        "answer": text,
        **both,
        "matches": _shares(rows[-1]["matches"]) if rows else None,
    }


def describe(found: Mapping[str, Any]) -> str:
    """As lines: what each layer says, the teacher's and the student's side by side."""
    lines = [found["question"], f"along the answer: {found['answer']}"]
    for model in ("teacher", "student"):
        lines += ["", f"{model} ({found['arm']})" if model == "student" else model]
        for number, said in enumerate(found[model]["said"]):
            name = "itself" if said["layer"] is None else f"layer {said['layer']}"
            costs = f"loss {decimal(said['loss'])}, from itself {decimal(said['divergence'])}"
            lines.append(f"  {name:<9} {costs}  {_on_one_line(said['text'])}")
            if model == "student" and said["layer"] is not None and found["matches"]:
                layers = [one["layer"] for one in found["teacher"]["said"]]
                shares = found["matches"][number]
                told = ", ".join(
                    f"{layers[n]}: {percent(share, 0)}" for n, share in enumerate(shares) if share
                )
                lines.append(f"{'':<12}learnt from the teacher's layers {told}")
            first = said["tokens"][0][:SHOWN]
            told = ", ".join(f"{token!r} {percent(p, 0)}" for token, p in first)
            lines.append(f"{'':<12}begins with {told}")
    return "\n".join(lines)


def _on_one_line(text: str) -> str:
    """What is said, with line ends and control characters as in Python's strings."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _graph(recipe: Recipe, arm: str | None) -> Graph:
    if arm is not None and arm not in recipe.known_arms:
        known = ", ".join(name for name in recipe.known_arms if has_cost(name))
        raise UsageError(f"{arm!r} is not known", where="--arm", mend=f"choose from {known}")
    names = [arm] if arm else ["student", *recipe.arms]
    if not arm and recipe.ablate is not None:
        names += recipe.ablate.points
    graph = graph_of(recipe.also_evaluating(names))
    if graph.problems:
        raise graph.problems[0]
    return graph


def _speaking(graph: Graph, arm: str | None, seed: int | None) -> tuple[Arm, Stage]:
    """The arm, and its training in which layers spoke: that of a phase before the last, maybe."""
    for found, model in graph.models:
        if model is None or model.model is None or model.model.stage is None or not found.trained:
            continue
        if (arm is not None and found.name != arm) or (seed is not None and found.seed != seed):
            continue
        for stage in reversed(trainings_behind(model.model.stage)):
            if OWN in stage.reads:
                return found, stage
    anyone = arm is None and seed is None
    raise UsageError(
        "no arm's layers speak" if anyone else "that arm's layers do not speak",
        where="losses",
        mend="add a loss of kind: verbalised, or name another --arm or --seed",
    )


def _teacher_section(recipe: Recipe) -> ModelSection:
    """The teacher's weights, where its stages have put them.

    Without the ablation: where a point speaks, its recipe is this one, and would be listed twice.
    """
    alone = recipe.evaluate.model_copy(update={"models": ("teacher",)})
    recipe = recipe.model_copy(update={"ablate": None, "evaluate": alone})
    (teacher,) = comparison_of(recipe, ["teacher"], verify=False).models
    weights = teacher.answerer.model
    assert weights is not None, "a teacher that shows inner states is a model here"
    return weights.located(weights.section, teacher.inputs, "model")


def _student_section(section: Student, folder: Path) -> ModelSection:
    from limbeck.training.stage import MODEL

    fields = {name: getattr(section, name) for name in ModelSection.model_fields}
    made = {**dict.fromkeys(ModelSection.origins), "revision": None, "adapter_path": None}
    return ModelSection.model_validate({**fields, **made, "model": str(folder / MODEL)})


def _sample(samples: list[Sample], wanted: str | None) -> Sample:
    found = next((one for one in samples if wanted in (None, one.id)), None)
    if found is None:
        raise UsageError(
            f"the evaluation split has no sample {wanted!r}",
            where="--sample",
            mend=f"such as {samples[0].id}",
        )
    return found


def _answer(sample: Sample, labels: Path) -> str:
    if sample.references:
        return sample.references[0]
    for row in read_labels(labels):
        if row.sample_id == sample.id:
            return row.text
    raise UsageError(
        "the layers speak along an answer, and there is none", where=sample.id, mend="give --answer"
    )


def _speech(
    section: ModelSection, verbalisers: Path, sample: Sample, data: Path, answer: str, top: int
) -> dict[str, Any]:
    from limbeck.models.load import load_model
    from limbeck.models.verbaliser import read_verbalisers
    from limbeck.training.speech import speech

    model = load_model(section, device="cpu")
    modules, facts = read_verbalisers(verbalisers, "cpu")
    return asdict(speech(model, modules, facts["layers"], sample, data, answer, top))


def _shares(counts: list[list[float]]) -> list[list[float]]:
    return [[one / max(1.0, sum(own)) for one in own] for own in counts]
