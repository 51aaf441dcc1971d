"""What teachers share whose weights another runtime has, and whose prompts are made here.

Prompt text, tokens, pixels and the end of an answer come from the model's own processor through
`data/tokens.py`, as for a model in this process, so the same weights get the same input.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from limbeck.errors import TeacherError
from limbeck.models.encoder import ModelPrompts, load_prompts
from limbeck.recipe.component import Section
from limbeck.records import Sample
from limbeck.teachers import Answer, Answered, Decoding, OpenTeacher, Request

WITHOUT_EFFECT = {"model", "revision"}
"""Fields that the identity of the weights stands for."""


class LocalWeights(Section):
    """Which model on this machine, and how much of it another runtime is to see."""

    is_served: ClassVar[bool] = True  # elsewhere: neither trained nor timed here

    model: str = Field(description="hub id in the local cache, or a folder")
    revision: str | None = Field(default=None, description="branch, tag or commit on the hub")
    min_pixels: int | None = Field(
        default=None, gt=0, description="per image, before the processor"
    )
    max_pixels: int | None = Field(
        default=None, gt=0, description="per image, before the processor"
    )
    context_tokens: int | None = Field(
        default=None, gt=0, description="longest prompt with answer; default: the model's own limit"
    )

    def weights_identity(self, *without_effect: str) -> dict[str, Any]:
        """The fields but those without effect on answers, and what identifies the weights."""
        from limbeck.models.source import identity_of

        fields = self.model_dump(mode="json", exclude={*WITHOUT_EFFECT, *without_effect})
        return {**fields, "weights": identity_of(self.model, self.revision)}

    def load_prompts(self) -> ModelPrompts:
        """The model's processor."""
        return load_prompts(
            self.model,
            self.revision,
            min_pixels=self.min_pixels,
            max_pixels=self.max_pixels,
            context_tokens=self.context_tokens,
        )


class MadePrompts(OpenTeacher):
    """An open teacher with `prompts`; subclasses answer requests.

    Args:
        prompts: of the model.
        data: the data stage's folder.
    """

    batched: ClassVar[bool] = False  # every request has its own seed, and no padding

    def __init__(self, prompts: ModelPrompts, data: Path) -> None:
        self.prompts, self.data = prompts, data

    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[Answer]:
        """Answer each sample; a sample that is given twice gets two answers."""
        times: Counter[str] = Counter()
        requests: list[Request] = []
        for sample in samples:
            requests.append(Request(sample, times[sample.id]))
            times[sample.id] += 1
        return self.answer(requests, decoding)

    def stream(
        self, batches: Iterable[Sequence[Request]], decoding: Decoding, *, workers: int = 0
    ) -> Iterator[Answered]:
        """Answer batch after batch, in order."""
        del workers
        for batch in batches:
            yield batch, self.answer(batch, decoding)

    def answer(self, requests: Sequence[Request], decoding: Decoding) -> list[Answer]:
        """An answer to each request."""
        raise NotImplementedError

    def visual_tokens(self, sample: Sample) -> int:
        """How many tokens the sample's pictures become."""
        return self.prompts.encoder.encode(sample, self.data, None).visual_tokens

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer."""
        self.prompts.encoder.tokenizer.save_pretrained(folder)

    @property
    def vocabulary_rows(self) -> int:
        """Rows of the head, padding included."""
        return self.prompts.head_rows

    @property
    def answer_frame(self) -> tuple[str, list[int]]:
        """White space before an answer and the token ids that end it."""
        return self.prompts.encoder.answer_prefix, self.prompts.encoder.end_ids

    def columns_of(self, token_ids: Sequence[int], sample: Sample) -> tuple[int, ...]:
        """Tokens as columns of the tokenizer's real ones.

        Raises:
            TeacherError: the model wrote a padding row of its head.
        """
        import torch

        from limbeck.errors import UsageError

        try:
            found = self.prompts.vocabulary.columns_of(torch.tensor(list(token_ids)))
        except UsageError as error:
            raise TeacherError(error.what, where=sample.id) from error
        return tuple(found.tolist())


def seed_of(request: Request, seed: int, bits: int) -> int:
    """A seed for one answer: another one for every sample and number, whatever the batch."""
    text = f"{seed}\n{request.number}\n{request.sample.id}"
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % 2**bits
