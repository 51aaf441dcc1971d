"""Which samples every model is timed on, and in which batches."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from limbeck.records import Sample

Item = TypeVar("Item")


def choose_samples(samples: Sequence[Sample], count: int, seed: int) -> list[Sample]:
    """A seeded choice that depends on the samples' ids alone, so that all models get the same."""
    ordered = sorted(samples, key=lambda sample: sample.id)
    return random.Random(seed).sample(ordered, min(count, len(ordered)))


def full_batches(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Batches of exactly `size` that cover every item; the last goes on from the first item."""
    count = -(-len(items) // size)
    return [
        [items[(batch * size + place) % len(items)] for place in range(size)]
        for batch in range(count)
    ]
