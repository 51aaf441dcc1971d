"""The stages of public benchmarks: what is asked, a model's answers, their scores.

What lmms-eval asks becomes a folder of samples like any other, so a model answers it as it answers
the recipe's own samples: the same prompts, pixels and decoding, resumable, paid for once. Decoding
is greedy, also where a task would draw its answers. No model ever runs inside lmms-eval.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from limbeck import journal
from limbeck.data.prepare import prepare
from limbeck.data.samples import read_samples
from limbeck.data.sources.jsonl import Jsonl
from limbeck.errors import DataError
from limbeck.evaluate.predict import PREDICTIONS, predict
from limbeck.evaluate.public.lmms_eval import lmms_eval
from limbeck.recipe.public import Public
from limbeck.recipe.sections import Evaluation
from limbeck.records import Sample
from limbeck.store import write_atomic, write_json
from limbeck.teachers import Teacher

TASKS = "tasks.json"
SPLIT = "test"


def collect_questions(output: Path, settings: Public) -> dict[str, Any]:
    """Write the samples of the tasks as a data stage would, and `tasks.json` beside them.

    Raises:
        DataError: a picture of a task cannot be used.
    """
    output.mkdir(parents=True, exist_ok=True)
    collected = output / "collected"
    shutil.rmtree(collected, ignore_errors=True)
    with lmms_eval(settings) as running:
        about = running.collect(collected)
    source = Jsonl.model_validate(
        {
            "path": str(collected / "rows.jsonl"),
            "split": SPLIT,
            "duplicates": "ignore",
            "max_broken_share": 0.0,
        }
    )
    prepare(source, output)
    shutil.rmtree(collected)
    write_json(output / TASKS, about)
    return {"samples": about["rows"], "tasks": about["tasks"], "lmms_eval": about["version"]}


def answer_questions(
    output: Path,
    *,
    model: Teacher,
    questions: Path,
    settings: Public,
    evaluation: Evaluation,
    device: str,
    responses: Path | None,
) -> dict[str, Any]:
    """Answer all questions greedily, those of one limit of new tokens together."""
    samples = read_samples(questions, SPLIT)
    by_limit: dict[int, list[Sample]] = {}
    for sample in samples:
        most = sample.metadata["max_new_tokens"]
        by_limit.setdefault(min(most, settings.max_new_tokens or most), []).append(sample)
    job = output.name.removesuffix("-partial")
    rows: dict[str, dict[str, Any]] = {}
    for limit, own in sorted(by_limit.items()):
        folder = output / f"{job}-{limit}"
        if not (folder / PREDICTIONS).is_file():
            how = {
                "max_new_tokens": limit,
                "batch_size": settings.batch_size,
                "share_prefix": False,
            }
            predict(
                folder,
                model=model,
                samples=own,
                data=questions,
                settings=evaluation.model_copy(update=how),
                device=device,
                responses=responses,
            )
        rows |= {row["id"]: row for row in journal.read(folder / PREDICTIONS)}
    lines = [json.dumps(rows[sample.id], ensure_ascii=False) + "\n" for sample in samples]
    write_atomic(output / PREDICTIONS, "".join(lines))
    for limit in by_limit:
        shutil.rmtree(output / f"{job}-{limit}")
    return {
        "predictions": len(rows),
        "cut": sum(not row["finished"] for row in rows.values()),
        "failures": sum("failure" in row for row in rows.values()),
    }


def score_answers(
    output: Path,
    *,
    questions: Path,
    models: Sequence[tuple[str, str, int | None, Path]],
    settings: Public,
    confidence: float,
) -> dict[str, Any]:
    """Let lmms-eval score every model's answers; writes `results.json`.

    Intervals are value ± z · standard error, of tasks that state one.

    Args:
        output: the stage's folder.
        questions: folder of what was asked.
        models: id, arm, seed and answers folder of each model.
        settings: the tasks.
        confidence: of the intervals.

    Raises:
        DataError: lmms-eval is another version than the one that asked.
    """
    output.mkdir(parents=True, exist_ok=True)
    asked = json.loads((questions / TASKS).read_text(encoding="utf-8"))
    samples = read_samples(questions, SPLIT)
    found: list[dict[str, Any]] = []
    with lmms_eval(settings) as running:
        for name, arm, seed, folder in models:
            replies = journal.read(folder / PREDICTIONS)
            path = output / f"answers-{name}.jsonl"
            write_atomic(path, "".join(_lines(samples, replies)))
            scored = running.score(path)
            if scored["version"] != asked["version"]:
                raise DataError(
                    f"lmms-eval {asked['version']} asked and {scored['version']} scores",
                    where=str(questions),
                    mend="use one version, or remove the folder",
                )
            cut: dict[str, int] = {}
            for sample, reply in zip(samples, replies, strict=True):
                task = sample.metadata["task"]
                cut[task] = cut.get(task, 0) + (not reply["finished"])
            rows = [_with_interval(row, confidence) for row in scored["results"]]
            found.append({"id": name, "arm": arm, "seed": seed, "results": rows, "cut": cut})
    content = {
        "lmms_eval": asked["version"],
        "tasks": asked["tasks"],
        "limit": settings.limit,
        "confidence": confidence,
        "models": found,
        "warnings": _warnings(asked["tasks"], settings),
    }
    write_json(output / "results.json", content)
    return {"models": len(found), "tasks": list(asked["tasks"]), "lmms_eval": asked["version"]}


def _lines(samples: Sequence[Sample], replies: Sequence[Mapping[str, Any]]) -> list[str]:
    return [
        json.dumps(
            {
                "task": sample.metadata["task"],
                "doc_id": sample.metadata["doc_id"],
                "text": _until(reply["prediction"], sample.metadata["until"]),
            },
            ensure_ascii=False,
        )
        + "\n"
        for sample, reply in zip(samples, replies, strict=True)
    ]


def _until(text: str, stops: Sequence[str]) -> str:
    """The text before the first of the task's stop strings."""
    for stop in stops:
        text = text.split(stop)[0] if stop else text
    return text


def _with_interval(row: Mapping[str, Any], confidence: float) -> dict[str, Any]:
    if row["stderr"] is None:
        return {**row, "low": None, "high": None}
    half = NormalDist().inv_cdf((1 + confidence) / 2) * row["stderr"]
    return {**row, "low": row["value"] - half, "high": row["value"] + half}


def _warnings(tasks: Mapping[str, Any], settings: Public) -> list[str]:
    found = [
        f"{name} was run on its first {about['asked']:,} of {about['of']:,} samples: not "
        "comparable with published results"
        for name, about in tasks.items()
        if about["asked"] < about["of"]
    ]
    found += [
        f"{name} draws its answers as published, here they are greedy"
        for name, about in tasks.items()
        if about["samples_answers"]
    ]
    if settings.max_new_tokens is not None:
        found.append(f"answers on public benchmarks were cut at {settings.max_new_tokens} tokens")
    return found
