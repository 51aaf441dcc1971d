"""What a floor answers, written as a model's predictions are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.evaluate.predict import PREDICTIONS
from limbeck.records import Sample
from limbeck.store import write_atomic


def write_guesses(
    output: Path,
    samples: Sequence[Sample],
    answers: Iterable[str],
    further: Iterable[Mapping[str, Any]] | None = None,
) -> None:
    """Write `predictions.jsonl`, one answer a sample; `further` are more fields of each row."""
    rows = [
        {
            "id": sample.id,
            "prediction": answer,
            "references": list(sample.references),
            "new_tokens": 0,
            "finished": True,
            "metadata": sample.metadata,
        }
        for sample, answer in zip(samples, answers, strict=True)
    ]
    if further is not None:
        rows = [{**row, **more} for row, more in zip(rows, further, strict=True)]
    output.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_atomic(output / PREDICTIONS, "".join(lines))
