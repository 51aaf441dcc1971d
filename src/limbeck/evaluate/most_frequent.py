"""The floor that looks at nothing: to each question the most frequent answer in training.

Questions of one `question_type`, or else of one `category`, share an answer; samples with neither
are one group. A group that training does not have gets the most frequent answer of all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.errors import DataError
from limbeck.evaluate.guesses import write_guesses
from limbeck.records import Sample


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
            counts[group_of(sample)][answer] += 1
            counts[""][answer] += 1
    if not counts:
        raise DataError(
            "no training sample has a gold answer to be the most frequent one",
            where="evaluate.models",
            mend="leave most_frequent out",
        )
    best = {group: min(own, key=lambda text: (-own[text], text)) for group, own in counts.items()}
    write_guesses(output, samples, [best.get(group_of(sample), best[""]) for sample in samples])
    return {"predictions": len(samples), "groups": len(best)}


def group_of(sample: Sample) -> str:
    """Which samples share a most frequent answer with this one; "" where it has no type."""
    for key in ("question_type", "category"):
        if isinstance(value := sample.metadata.get(key), str):
            return f"{key}: {value}"
    return ""
