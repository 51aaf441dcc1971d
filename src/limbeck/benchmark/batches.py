"""Which samples every model is timed on, and in which batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from limbeck.errors import DataError
from limbeck.recipe.sections import Benchmark
from limbeck.records import Sample

Item = TypeVar("Item")


def choose_samples(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """A seeded choice that depends on the samples' ids alone, so that all models get the same."""
    ordered = sorted(samples, key=lambda sample: sample.id)
    return random.Random(seed).sample(ordered, min(count, len(ordered)))


def samples_to_time(
    data: Path, settings: Benchmark, seed: int, ask: Callable[[Sample], Sample] | None
) -> list[Sample]:
    """The chosen samples of the data stage, asked as the model is asked that is timed.

    Raises:
        DataError: no samples in `settings.split`.
    """
    from limbeck.data.samples import read_samples

    samples = choose_samples(read_samples(data, split=settings.split), settings.samples, seed)
    if not samples:
        raise DataError(
            f"the split {settings.split!r} has no samples",
            where="benchmark.split",
            mend="choose a split that the data stage has",
        )
    return [ask(sample) for sample in samples] if ask else samples


def full_batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Batches of exactly `size` that cover every item; the last goes on from the first item."""
    count = -(-len(items) // size)
    return [
        [items[(batch * size + place) % len(items)] for place in range(size)]
        for batch in range(count)
    ]
