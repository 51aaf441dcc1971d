"""What is in a data set: counts, lengths, sizes, duplicates. The report draws from this."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from limbeck.data.duplicates import SamePictures
from limbeck.data.leaks import Pictures, describe_duplicates, leak_warnings, leaks
from limbeck.records import Sample

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
BINS = 20
SHOWN = 20
"""Pictures and reasons that are listed; all are counted."""


def describe(
    samples: Sequence[Sample],
    quarantine: Sequence[dict[str, str]],
    *,
    licence: str | None,
    same: SamePictures | None = None,
) -> dict[str, Any]:
    """Statistics as JSON: the same samples give the same value.

    Args:
        samples: the data set.
        quarantine: the rows that were put aside.
        licence: of the whole.
        same: the pictures that were found to be copies; None where nobody looked.
    """
    shared = _across_splits(samples)
    pictures = None if same is None else Pictures(samples, same)
    leaking = [] if pictures is None else leaks(pictures)
    files = {file.sha256: file for sample in samples for file in sample.images}
    words = [len(text.split()) for sample in samples for text in sample.references]
    warnings = leak_warnings(leaking)
    if same is not None and same.not_compared:
        warnings.append(
            f"{same.not_compared} pairs of pictures look alike and were not compared: more copies "
            "may be among them"
        )
    if unanswered := sum(not sample.references for sample in samples):
        warnings.append(f"{unanswered} of {len(samples)} samples have no reference")
    return {
        "samples": len(samples),
        "splits": dict(sorted(Counter(sample.split for sample in samples).items())),
        "categories": _by_split(samples, "category"),
        "most_frequent_answer_share": _most_frequent_answer_share(samples),
        "licence": licence,
        "licences_of_rows": _counts(s.metadata.get("licence") for s in samples),
        "references_per_sample": _counts(len(sample.references) for sample in samples),
        "images_per_sample": _counts(len(sample.images) for sample in samples),
        "words_per_reference": distribution(words),
        "characters_per_prompt": distribution([_prompt_characters(s) for s in samples]),
        "images": {
            "distinct": len(files),
            "width_pixels": distribution([file.width for file in files.values()]),
            "height_pixels": distribution([file.height for file in files.values()]),
            "area_pixels": distribution([file.width * file.height for file in files.values()]),
        },
        "images_in_several_splits": {
            "count": len(shared),
            "first": shared[:SHOWN],
        },
        "duplicate_images": None
        if pictures is None or same is None
        else {**describe_duplicates(pictures, same), "leaks": leaking},
        "quarantined": {
            "count": len(quarantine),
            "reasons": _most_common(entry["reason"] for entry in quarantine),
        },
        "warnings": warnings,
    }


def distribution(values: Sequence[float]) -> dict[str, Any] | None:
    """Count, mean, quantiles (linear between neighbours) and a histogram of equal bins."""
    if not values:
        return None
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    width = (high - low) / BINS or 1.0
    counts = [0] * (BINS if high > low else 1)
    for value in ordered:
        counts[min(int((value - low) / width), len(counts) - 1)] += 1
    return {
        "n": len(ordered),
        "mean": round(sum(ordered) / len(ordered), 4),
        "quantiles": {f"{q:g}": round(_quantile(ordered, q), 4) for q in QUANTILES},
        "histogram": {
            "edges": [round(low + width * index, 4) for index in range(len(counts) + 1)],
            "counts": counts,
        },
    }


def _quantile(ordered: Sequence[float], q: float) -> float:
    position = q * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def _across_splits(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for sample in samples:
        for file in sample.images:
            found[file.sha256].setdefault(sample.split, sample.id)
    return [
        {"sha256": digest, "samples": first_of_split}
        for digest, first_of_split in found.items()
        if len(first_of_split) > 1
    ]


def _by_split(samples: Sequence[Sample], key: str) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        if (value := sample.metadata.get(key)) is not None:
            counts[sample.split][str(value)] += 1
    return {split: dict(sorted(counter.items())) for split, counter in sorted(counts.items())}


def _most_frequent_answer_share(samples: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Split -> question type -> the share of questions that its most frequent answer is right on.

    What guessing without looking reaches; only where samples have a question type.
    """
    counts: dict[str, dict[str, Counter[str]]] = defaultdict(lambda: defaultdict(Counter))
    for sample in samples:
        kind = sample.metadata.get("question_type")
        if isinstance(kind, str) and sample.references:
            counts[sample.split][kind][sample.references[0]] += 1
    return {
        split: {
            kind: round(max(counter.values()) / counter.total(), 4)
            for kind, counter in sorted(kinds.items())
        }
        for split, kinds in sorted(counts.items())
    }


def _counts(values: Any) -> dict[str, int]:
    counter = Counter(str(value) for value in values if value is not None)
    return dict(sorted(counter.items()))


def _most_common(reasons: Any) -> dict[str, int]:
    """Counts of reasons that differ in more than the names and numbers in them."""
    counter = Counter(re.sub(r"\d+", "#", re.sub(r"'[^']*'", "'…'", text)) for text in reasons)
    ordered = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
    return dict(ordered[:SHOWN])


def _prompt_characters(sample: Sample) -> int:
    return sum(
        len(part["text"])
        for message in sample.messages
        for part in message["content"]
        if part["type"] == "text"
    )
