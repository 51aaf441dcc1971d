"""Prompts and pictures prepared ahead of a model, in worker processes where they are allowed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.data.workers import prepared

if TYPE_CHECKING:
    from limbeck.data.tokens import Encoded, Encoder
    from limbeck.records import Sample


def encoded_batches(
    encoder: Encoder,
    data: Path,
    batches: Sequence[Sequence[Sample]],
    workers: int,
    *,
    blank_images: bool = False,
) -> Iterator[list[Encoded]]:
    """The prompts of each batch in turn, prepared by `workers` processes (0: in this one).

    A sample that a batch holds several times is prepared once.

    Raises:
        DataError: as `Encoder.encode`; also from a worker.
    """
    prepare = _Prepare(encoder, data, blank_images)
    return prepared(prepare.batch, batches, workers=workers if len(batches) > 1 else 0)


@dataclass(frozen=True)
class _Prepare:
    encoder: Encoder
    data: Path
    blank_images: bool

    def batch(self, samples: Sequence[Sample]) -> list[Encoded]:
        known: dict[str, Encoded] = {}
        for sample in samples:
            if sample.id not in known:
                known[sample.id] = self.encoder.encode(
                    sample, self.data, None, blank_images=self.blank_images
                )
        return [known[sample.id] for sample in samples]
