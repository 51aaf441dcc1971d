"""The floor that looks at nothing: to each question the most frequent answer in training.

Questions of one `question_type`, or else of one `category`, share an answer; samples with neither
are one group. A group that training does not have gets the most frequent answer of all.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import DataError
from limbeck.evaluate.predict import PREDICTIONS
from limbeck.records import Sample
from limbeck.store import write_atomic


def most_frequent(
    output: Path, *, samples: Sequence[Sample], known: Sequence[Sample]
) -> dict[str, Any]:
    """Write `predictions.jsonl` as a model would.

    Args:
        output: the stage's folder.
        samples: what is asked.
        known: samples whose first gold answers are counted; of equal counts the first in the
            alphabet wins.

    Raises:
        DataError: no known sample has a gold answer.
    """
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in known:
        for answer in sample.references[:1]:
            counts[_group(sample)][answer] += 1
            counts[""][answer] += 1
    if not counts:
        raise DataError(
            "no training sample has a gold answer to be the most frequent one",
            where="evaluate.models",
            mend="leave most_frequent out",
        )
    best = {group: min(own, key=lambda text: (-own[text], text)) for group, own in counts.items()}
    rows = [
        {
            "id": sample.id,
            "prediction": best.get(_group(sample), best[""]),
            "references": list(sample.references),
            "new_tokens": 0,
            "finished": True,
            "metadata": sample.metadata,
        }
        for sample in samples
    ]
    output.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    write_atomic(output / PREDICTIONS, "".join(lines))
    return {"predictions": len(rows), "groups": len(best)}


def _group(sample: Sample) -> str:
    for key in ("question_type", "category"):
        if isinstance(value := sample.metadata.get(key), str):
            return f"{key}: {value}"
    return ""
