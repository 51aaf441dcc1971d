"""Examples as tokens and pixels, encoded ahead of the model where worker processes are allowed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.data.tokens import collate, expected_prompt_tokens
from limbeck.data.workers import prepared
from limbeck.training.batches import Example, MicroBatch

if TYPE_CHECKING:
    from limbeck.data.tokens import Batch, Encoded, Encoder
    from limbeck.training.vision_cache import VisionCache

CACHE_BYTES = 1 << 30
"""How much encoded data is kept, so that a small data set is prepared only once (by each worker);
worker processes and this one have equal shares of it."""


PutTogether = Callable[[Sequence["Encoded"]], "Batch"]


@dataclass(frozen=True)
class Collated:
    """A micro-batch as the model takes it, and the supervised tokens of each of its answers."""

    batch: Batch
    answers: tuple[tuple[int, ...], ...]

    def pin_memory(self) -> Collated:
        """The same in memory that a GPU reads by itself."""
        return replace(self, batch=self.batch.pin_memory())


class EncodedExamples:
    """Encodes examples by index and keeps as many as fit in `CACHE_BYTES`.

    `answer_tokens[i]` counts the supervised tokens of example i, end of turn included;
    `expected_lengths[i]` estimates its whole length, for batching like with like. Samples that the
    cache of vision features has are read from there; their pictures are not opened. A micro-batch
    is what `put_together` makes of its examples, by default padded on the right.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        encoder: Encoder,
        data: Path,
        vision: VisionCache | None = None,
        put_together: PutTogether | None = None,
    ) -> None:
        self._examples, self._encoder, self._data = list(examples), encoder, data
        self._put_together = put_together or self._padded
        self._vision = vision
        self._kept: dict[int, Encoded] = {}
        self._kept_bytes = 0
        self._workers = 0
        self.answer_tokens = [len(encoder.answer_tokens(e.answer)) for e in examples]
        self.expected_lengths = [
            count + expected_prompt_tokens(example.sample)
            for count, example in zip(self.answer_tokens, examples, strict=True)
        ]

    def __getstate__(self) -> dict[str, Any]:
        """Worker processes that are not forked begin with nothing kept."""
        return {**vars(self), "_kept": {}, "_kept_bytes": 0}

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, index: int) -> Encoded:
        """The encoded example; its answer has as many tokens as `answer_tokens` says."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        example = self._examples[index]
        prompt = self._vision.prompt(example.sample.id) if self._vision else None
        if prompt is not None:
            item = prompt.with_answer(self._encoder.answer_tokens(example.answer))
            self._encoder.check_context(item, example.sample)
            return item
        item = self._encoder.encode(example.sample, self._data, example.answer)
        size = sum(tensor.nbytes for tensor in item.features.values())
        if self._kept_bytes + size <= CACHE_BYTES // (self._workers + 1):
            self._kept[index] = item
            self._kept_bytes += size
        return item

    def set_answer(self, index: int, answer: str) -> None:
        """Give an example another answer; its pictures are not prepared again.

        Raises:
            DataError: prompt and answer do not fit the context.
        """
        item = self[index].with_answer(self._encoder.answer_tokens(answer))
        example = replace(self._examples[index], answer=answer)
        self._encoder.check_context(item, example.sample)
        self._examples[index] = example
        if index in self._kept:
            self._kept[index] = item
        self.answer_tokens[index] = len(item.answer_ids)
        self.expected_lengths[index] = len(item.answer_ids) + expected_prompt_tokens(example.sample)

    def together(self, micro_batch: MicroBatch) -> Collated:
        """The examples of a micro-batch."""
        items = [self[index] for index in micro_batch.indices]
        answers = tuple(tuple(item.answer_ids.tolist()) for item in items)
        return Collated(self._put_together(items), answers)

    def _padded(self, items: Sequence[Encoded]) -> Batch:
        return collate(items, pad_id=self._encoder.pad_id, side="right")

    def stream(
        self, plan: Iterable[MicroBatch], workers: int, *, pin_memory: bool = False
    ) -> Generator[Collated]:
        """Each micro-batch in turn, prepared ahead by `workers` processes (0: here, when asked)."""
        self._workers = workers
        return prepared(self.together, plan, workers=workers, pin_memory=pin_memory)
