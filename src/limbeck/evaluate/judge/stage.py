"""The judge's stage: it is tried on known pairs, then judges; `judge.json` says how it went."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck import journal
from limbeck.evaluate.comparison import Arms, seed_pairs
from limbeck.evaluate.judge.questions import (
    Question,
    comparisons,
    grades,
    judged_samples,
    known,
    prompt_texts,
)
from limbeck.evaluate.judge.replies import read_grade, read_verdict
from limbeck.evaluate.judge.tallies import (
    Compared,
    grade_difference,
    mean_grades,
    pair_rates,
    unreadable_by_model,
)
from limbeck.evaluate.judge.trial import trial
from limbeck.evaluate.predict import PREDICTIONS, predict, read_predictions
from limbeck.recipe.judging import Judge
from limbeck.recipe.sections import Evaluation
from limbeck.records import Sample
from limbeck.store import write_atomic, write_json
from limbeck.teachers import Teacher

Said = Mapping[str, Any]
"""What was read in each reply, by the question's id."""


def judge(
    output: Path,
    *,
    model: Teacher,
    settings: Evaluation,
    models: Sequence[tuple[str, str, int | None, Path]],
    pairs: Sequence[tuple[str, str]],
    samples: Sequence[Sample],
    data: Path,
    device: str,
    responses: Path | None,
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Ask for all verdicts and write `judge.json` and `judgements.jsonl`.

    Args:
        output: the stage's folder; replies that are there already are not asked for again.
        model: the judge.
        settings: of the evaluation, the judge's among them.
        models: id, arm, seed and predictions folder of every model that is judged.
        pairs: of arms, for pairwise judging.
        samples: the evaluated ones.
        data: the data stage's folder.
        device: where a judge in this process runs.
        responses: where a served judge keeps the replies that were paid for.
        about: what to say of the judge: `name`, `warnings` and so on.
    """
    section = settings.judge
    assert section is not None
    chosen = judged_samples(samples, section.limit)
    texts = {
        name: {one.sample_id: one.text for one in read_predictions(folder, name)}
        for name, _, _, folder in models
    }
    arms: Arms = {}
    for name, arm, seed, _ in models:
        arms.setdefault(arm, {})[seed] = name
    compared = {(a, b): seed_pairs(arms[a], arms[b]) for a, b in pairs}
    trials = list(known(section, samples))
    if section.mode == "pairwise":
        by_model = [(a, b) for found in compared.values() for _, a, b in found]
        asked = list(comparisons(section, list(dict.fromkeys(by_model)), chosen, texts))
    else:
        asked = list(grades(section, [name for name, *_ in models], chosen, texts))
    rows = _ask(output, model, section, settings, [*trials, *asked], data, device, responses)
    said = {row["id"]: row["read"] for row in rows}
    bootstrap = {
        "resamples": settings.bootstrap,
        "confidence": settings.confidence,
        "seed": settings.seed,
    }
    found: dict[str, Any] = {
        **about,
        "mode": section.mode,
        "scale": section.scale if section.mode == "pointwise" else None,
        "prompt": prompt_texts(section),
        "saw": {"pictures": section.show_pictures, "references": section.show_references},
        "samples": len(chosen),
        "evaluated": len(samples),
        "confidence": settings.confidence,
        "bootstrap": settings.bootstrap,
        "trial": trial(_known_outcomes(section, trials, said), settings.confidence),
        "replies": {
            "asked": len(rows),
            "unreadable": sum(row["read"] is None for row in rows),
            "cut": sum(row["read"] is None and not row["finished"] for row in rows),
            "refused": sum("failure" in row for row in rows),
            "by_model": unreadable_by_model((q.about, said[q.asked.id] is not None) for q in asked),
        },
    }
    ids = [sample.id for sample in chosen]
    if section.mode == "pairwise":
        outcomes = _outcomes(asked, said)
        alike = Compared(alike=True)
        found["pairs"] = [
            {"a": a, "b": b, "seeds": [seed for seed, _, _ in seeds]}
            | pair_rates(
                [[outcomes.get((x, y, i), alike) for i in ids] for _, x, y in seeds], **bootstrap
            )
            for (a, b), seeds in compared.items()
        ]
    else:
        given = {(q.about["model"], q.about["sample"]): said[q.asked.id] for q in asked}
        listed = {name: [given[name, i] for i in ids] for name, *_ in models}
        found["arms"] = [
            {"arm": arm, "seeds": list(seeds)}
            | mean_grades([listed[name] for name in seeds.values()], section.scale, **bootstrap)
            for arm, seeds in arms.items()
        ]
        found["differences"] = [
            {"a": a, "b": b}
            | grade_difference([(listed[x], listed[y]) for _, x, y in seeds], **bootstrap)
            for (a, b), seeds in compared.items()
        ]
    write_json(output / "judge.json", found)
    return {
        "judge": about["name"],
        "mode": section.mode,
        "samples": len(chosen),
        "replies": len(rows),
        "unreadable": found["replies"]["unreadable"],
        "usable": found["trial"]["usable"],
    }


def _ask(
    output: Path,
    model: Teacher,
    section: Judge,
    settings: Evaluation,
    questions: Sequence[Question],
    data: Path,
    device: str,
    responses: Path | None,
) -> list[dict[str, Any]]:
    """Replies to all questions with what was read in them, also as `judgements.jsonl`."""
    how = {
        "max_new_tokens": section.max_new_tokens,
        "batch_size": section.batch_size,
        "share_prefix": False,
    }
    predict(
        output,
        model=model,
        samples=[question.asked for question in questions],
        data=data,
        settings=settings.model_copy(update=how),
        device=device,
        responses=responses,
    )
    rows: list[dict[str, Any]] = []
    replies = journal.read(output / PREDICTIONS)
    for question, reply in zip(questions, replies, strict=True):
        text = reply["prediction"]
        read: Any = read_verdict(text)
        if section.mode == "pointwise":
            read = read_grade(text, section.scale)
        kept = {key: reply[key] for key in ("finished", "failure") if key in reply}
        rows.append({"id": question.asked.id, **question.about, "reply": text, "read": read} | kept)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_atomic(output / "judgements.jsonl", "".join(lines))
    (output / PREDICTIONS).unlink()
    return rows


def _outcomes(questions: Sequence[Question], said: Said) -> dict[tuple[str, str, str], Compared]:
    """(model a, model b, sample) -> the comparison after both orders."""
    orders: dict[tuple[str, str, str], dict[int, Any]] = {}
    for question in questions:
        own = question.about
        orders.setdefault((own["a"], own["b"], own["sample"]), {})[own["order"]] = said[
            question.asked.id
        ]
    return {key: Compared((both[0], both[1])) for key, both in orders.items()}


def _known_outcomes(
    section: Judge, questions: Sequence[Question], said: Said
) -> dict[str, list[str]]:
    """Kind of known pair -> outcomes from the gold answer's side."""
    by_kind: dict[str, dict[str, dict[int, Any]]] = {}
    for question in questions:
        own = question.about
        read = said[question.asked.id]
        by_kind.setdefault(own["kind"], {}).setdefault(own["sample"], {})[own.get("order", 0)] = (
            read
        )
    if section.mode == "pointwise":
        right = by_kind.pop("right", {})
        return {
            kind: [_higher(right[sample][0], own[0]) for sample, own in found.items()]
            for kind, found in by_kind.items()
        }
    same = by_kind.pop("identical", {})
    found = {
        kind: [str(Compared((own[0], own[1])).outcome) for own in samples.values()]
        for kind, samples in by_kind.items()
    }
    # Two orders of equal answers are one question, so one verdict is all there is.
    tie = {"TIE": "tie", "A": "win", "B": "loss", None: "unreadable"}
    return found | {"identical": [tie[own[0]] for own in same.values()]}


def _higher(right: int | None, other: int | None) -> str:
    if right is None or other is None:
        return "unreadable"
    return "win" if right > other else "loss" if right < other else "tie"
