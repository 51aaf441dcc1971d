"""Labels of synthetic screens, some unfit, for tests of the page."""

from __future__ import annotations

from pathlib import Path

from limbeck.data.prepare import prepare
from limbeck.data.samples import read_samples
from limbeck.data.sources.mixed import Mixed
from limbeck.records import Label, Sample


def make_labels(
    folder: Path, *, count: int = 60, texts: tuple[str, ...] = ()
) -> tuple[list[Label], list[Sample], Path]:
    """Two thirds in train, the rest in unlabelled; every sixth label is unfit.

    `texts` are the first answers.
    """
    part = {"source": "screens", "validation": 0, "test": 0}
    parts = [
        {**part, "train": 2 * count // 3},
        {**part, "train": count - 2 * count // 3, "seed": 1, "split": "unlabelled"},
    ]
    prepare(Mixed.model_validate({"parts": parts}), folder)
    samples = read_samples(folder)
    labels = []
    for number, sample in enumerate(samples):
        text = texts[number] if number < len(texts) else f"Answer {number}: {sample.references[0]}"
        reasons = (
            () if number % 6 else (("refuses", "longer than 3 words"), ("empty",))[number % 4 > 0]
        )
        labels.append(
            Label(
                sample.id,
                text,
                not reasons,
                reasons,
                tokens=3 + number % 17,
                mean_log_probability=None if reasons else -number / 100,
                agreement=number / count,
                gold=number % 5 == 1,
            )
        )
    return labels, samples, folder
