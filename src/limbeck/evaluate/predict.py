"""The predictions stage: one model answers the evaluation samples; nothing is scored here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from limbeck import journal
from limbeck.progress import meter
from limbeck.recipe.sections import Evaluation
from limbeck.records import Prediction, Sample
from limbeck.stop import stop_on_signals
from limbeck.store import write_atomic
from limbeck.teachers import Answer, Decoding, Request, Teacher, batches_by_length, share_prefixes

JOURNAL = "journal.jsonl"
PREDICTIONS = "predictions.jsonl"


def predict(
    output: Path,
    *,
    model: Teacher,
    samples: Sequence[Sample],
    data: Path,
    settings: Evaluation,
    device: str,
    responses: Path | None = None,
    blank_pictures: bool = False,
) -> dict[str, Any]:
    """Answer every sample greedily and write `predictions.jsonl` in sample order.

    With `blank_pictures` the model sees grey of the same size in place of every picture.
    """
    output.mkdir(parents=True, exist_ok=True)
    done = {row["id"]: row for row in journal.read(output / JOURNAL)}
    job = output.name.removesuffix("-partial")
    session = model.open(data, device=device, responses=responses, job=job)
    try:
        together = settings.share_prefix
        why_apart = share_prefixes(session, samples) if together else None
        planned = batches_by_length(session, samples, settings.batch_size, together=together)
        batches = [list(map(Request, batch)) for batch in session.left_of(list(planned), done)]
        waiting = sum(map(len, batches))
        decoding = Decoding(settings.max_new_tokens, blank_images=blank_pictures)
        total = len(samples)
        with (
            stop_on_signals() as stop,
            meter("answering", total, done=total - waiting) as progress,
            closing(session.stream(batches, decoding, workers=settings.workers)) as answered,
        ):
            for requests, answers in answered:
                rows = [
                    _row(request.sample, answer)
                    for request, answer in zip(requests, answers, strict=True)
                ]
                journal.append(output / JOURNAL, rows)
                done |= {row["id"]: row for row in rows}
                progress.advance(len(rows), facts=session.usage())
                stop.raise_if_stopped()
    finally:
        session.close()
    lines = [json.dumps(done[sample.id], ensure_ascii=False) for sample in samples]
    write_atomic(output / PREDICTIONS, "".join(line + "\n" for line in lines))
    (output / JOURNAL).unlink(missing_ok=True)
    shared = {"shared_prefix": why_apart or "computed once"} if together else {}
    return {"predictions": len(lines), **shared}


def _row(sample: Sample, answer: Answer) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": sample.id,
        "prediction": answer.text,
        "references": list(sample.references),
        "new_tokens": answer.tokens,
        "finished": answer.finished,
        "metadata": sample.metadata,
    }
    return row if answer.failure is None else {**row, "failure": answer.failure}


def read_predictions(folder: Path, model: str) -> list[Prediction]:
    """The answers of a finished predictions stage, as those of `model`, in sample order."""
    rows = journal.read(folder / PREDICTIONS)
    return [
        Prediction(row["id"], model, row["prediction"], row["new_tokens"], row["finished"])
        for row in rows
    ]
