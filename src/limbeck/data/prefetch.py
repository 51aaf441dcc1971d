"""Prompts and pictures prepared ahead of a model, in worker processes where they are allowed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.errors import LimbeckError

if TYPE_CHECKING:
    from limbeck.data.tokens import Encoded, Encoder
    from limbeck.records import Sample

BATCHES_AHEAD = 2
"""For each worker: enough that the model never waits, few enough that pictures fit in memory."""


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
    if workers == 0 or len(batches) < 2:
        yield from map(prepare.batch, batches)
        return
    from torch.utils.data import DataLoader

    loader: DataLoader[list[Encoded] | LimbeckError] = DataLoader(
        [list(batch) for batch in batches],  # pyright: ignore[reportArgumentType]
        batch_size=1,
        num_workers=workers,
        collate_fn=prepare,
        prefetch_factor=BATCHES_AHEAD,
    )
    for found in loader:
        if isinstance(found, LimbeckError):
            raise found
        yield found


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

    def __call__(self, one: Sequence[Sequence[Sample]]) -> list[Encoded] | LimbeckError:
        """In a worker: an error is handed over, since raising it there would lose its parts."""
        try:
            return self.batch(one[0])
        except LimbeckError as error:
            return error
