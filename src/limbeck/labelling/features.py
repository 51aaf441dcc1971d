"""The features stage: the teacher's inner states along labelled answers, for losses on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from limbeck.data.labels import read_labels
from limbeck.progress import meter
from limbeck.records import ModelShape, Sample, Tap
from limbeck.signals.features import SAMPLES_PER_BLOCK, FeatureWriter, concatenated
from limbeck.teachers import Teacher, batches_by_length


def cache_features(
    output: Path,
    *,
    teacher: Teacher,
    samples: Sequence[Sample],
    data: Path,
    labels: Path,
    taps_of: Callable[[ModelShape], Sequence[Tap]],
    batch_size: int,
    device: str,
) -> dict[str, Any]:
    """Write the states of every sample with a fit label.

    Args:
        output: the stage's folder.
        teacher: whose states; it shows "inner_states".
        samples: what was labelled.
        data: the data stage's folder.
        labels: the label stage's folder.
        taps_of: from the teacher's `ModelShape` to the taps that are wanted.
        batch_size: samples at once.
        device: where the teacher runs.

    Returns:
        The manifest's summary: samples, bytes, the relative error of the coding.
    """
    output.mkdir(parents=True, exist_ok=True)
    texts = {row.sample_id: row.text for row in read_labels(labels) if row.valid}
    session = teacher.open(data, device=device)
    shape = session.shape
    taps = taps_of(shape)
    writer = FeatureWriter(output, taps, shape)
    ordered = [
        sample
        for batch in batches_by_length(session, [s for s in samples if s.id in texts], batch_size)
        for sample in batch
    ]
    blocks = [
        ordered[first : first + SAMPLES_PER_BLOCK]
        for first in range(0, len(ordered), SAMPLES_PER_BLOCK)
    ]
    with meter("inner states", len(ordered)) as progress:
        for number, block in enumerate(blocks):
            ids = [sample.id for sample in block]
            if not writer.is_whole(number, ids):
                batches = [block[i : i + batch_size] for i in range(0, len(block), batch_size)]
                parts = [
                    session.features(batch, [texts[sample.id] for sample in batch], taps)
                    for batch in batches
                ]
                writer.write(number, ids, concatenated(parts))
            progress.advance(len(block))
    return {**writer.close(len(blocks)), "taps": [str(tap) for tap in taps]}
