"""Prompts for a model that reads token ids and pixel tensors; those of the last batch at hand."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.records import Sample
from limbeck.teachers import Request

if TYPE_CHECKING:
    from limbeck.data.tokens import Encoded, Encoder


@dataclass
class EncodedPrompts:
    """Encodes samples for one model.

    A batch that was answered is often scored next, so its prompts are kept until the next one.

    Attributes:
        encoder: of the model.
        data: the data stage's folder, which holds the pictures.
    """

    encoder: Encoder
    data: Path
    _last: dict[str, tuple[Sample, Encoded]] = field(default_factory=lambda: {})

    def of(self, sample: Sample, *, blank_images: bool = False) -> Encoded:
        """A sample without an answer."""
        known, item = self._last.get(sample.id, (None, None))
        if item is not None and known == sample and not blank_images:
            return item
        return self.encoder.encode(sample, self.data, None, blank_images=blank_images)

    def with_answers(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[Encoded]:
        """Samples with given answers.

        Raises:
            DataError: one does not fit the model's context.
        """
        items = [
            self.of(sample).with_answer(self.encoder.answer_tokens(answer))
            for sample, answer in zip(samples, answers, strict=True)
        ]
        for sample, item in zip(samples, items, strict=True):
            self.encoder.check_context(item, sample)
        return items

    def batches(
        self, batches: Iterable[Sequence[Request]], *, blank_images: bool, workers: int
    ) -> Generator[tuple[list[Request], list[Encoded]]]:
        """Each batch with its prompts, prepared ahead by `workers` processes."""
        from limbeck.data.prefetch import encoded_batches

        planned = [list(batch) for batch in batches]
        samples = [[request.sample for request in batch] for batch in planned]
        prepared = encoded_batches(
            self.encoder, self.data, samples, workers, blank_images=blank_images
        )
        for batch, items in zip(planned, prepared, strict=True):
            if not blank_images:
                pairs = zip(batch, items, strict=True)
                self._last = {r.sample.id: (r.sample, item) for r, item in pairs}
            yield batch, items
