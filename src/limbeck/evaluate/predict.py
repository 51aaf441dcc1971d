"""The predictions stage: one model answers the evaluation samples; nothing is scored here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck import journal
from limbeck.data.blank import blanked
from limbeck.progress import meter
from limbeck.recipe.sections import Evaluation
from limbeck.records import Prediction, Sample
from limbeck.store import write_atomic
from limbeck.teachers import Teacher, batches_by_length

JOURNAL = "journal.jsonl"
PREDICTIONS = "predictions.jsonl"
BLANK = "blank"
"""Where blanked pictures lie while a model answers."""


def predict(
    output: Path,
    *,
    model: Teacher,
    samples: Sequence[Sample],
    data: Path,
    settings: Evaluation,
    device: str,
    blank_pictures: bool = False,
) -> dict[str, Any]:
    """Answer every sample greedily and write `predictions.jsonl` in sample order.

    With `blank_pictures` the model sees grey of the same size in place of every picture.
    """
    output.mkdir(parents=True, exist_ok=True)
    if blank_pictures:
        samples, data = blanked(samples, output / BLANK), output / BLANK
    done = {row["id"]: row for row in journal.read(output / JOURNAL)}
    session = model.open(data, device=device)
    with meter("answering", len(samples), done=len(done)) as progress:
        for batch in batches_by_length(session, samples, settings.batch_size):
            if all(sample.id in done for sample in batch):
                continue
            answers = session.generate(
                batch, max_new_tokens=settings.max_new_tokens, temperature=0.0, seed=0
            )
            rows = [
                {
                    "id": sample.id,
                    "prediction": answer.text,
                    "references": list(sample.references),
                    "new_tokens": answer.tokens,
                    "finished": answer.finished,
                    "metadata": sample.metadata,
                }
                for sample, answer in zip(batch, answers, strict=True)
            ]
            journal.append(output / JOURNAL, rows)
            done |= {row["id"]: row for row in rows}
            progress.advance(len(batch))
    lines = [json.dumps(done[sample.id], ensure_ascii=False) for sample in samples]
    write_atomic(output / PREDICTIONS, "".join(line + "\n" for line in lines))
    (output / JOURNAL).unlink(missing_ok=True)
    shutil.rmtree(output / BLANK, ignore_errors=True)
    return {"predictions": len(lines)}


def read_predictions(folder: Path, model: str) -> list[Prediction]:
    """The answers of a finished predictions stage, as those of `model`, in sample order."""
    rows = journal.read(folder / PREDICTIONS)
    return [
        Prediction(row["id"], model, row["prediction"], row["new_tokens"], row["finished"])
        for row in rows
    ]
