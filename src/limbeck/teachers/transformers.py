"""A teacher that runs in this process through transformers."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from limbeck.errors import TeacherError, UsageError
from limbeck.recipe.sections import FineTune, ModelSection
from limbeck.records import Dense, Features, ModelShape, Sample, Tap
from limbeck.teachers import (
    Answer,
    Answered,
    Capability,
    Decoding,
    OpenTeacher,
    Request,
    ScoredAnswer,
    Teacher,
)
from limbeck.teachers.encoded_prompts import EncodedPrompts

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.data.tokens import Encoded
    from limbeck.models.load import LoadedModel

PROBE = "one two three"
"""Any answer, to see what a model makes of it."""


class Transformers(Teacher, ModelSection):
    """Any image-text-to-text model of transformers, in full precision, int8 or nf4.

    With `fine_tune` the model is first trained on the gold answers, as a stage of its own.
    """

    backend: Literal["transformers"] = "transformers"
    fine_tune: FineTune | None = None
    device: str = Field(
        default="auto",
        pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$",
        description="where it labels, or scores live; auto: the recipe's",
    )

    def capabilities(self) -> frozenset[Capability]:
        """All that a model in this process can show."""
        return frozenset(("score", "whole_distributions", "hidden_states", "inner_states"))

    def open(
        self, data: Path, *, device: str, responses: Path | None = None, job: str = ""
    ) -> OpenTeacher:
        """Load the model; `model` must be a hub id or a folder by now."""
        from limbeck.models.load import load_model

        where = device if self.device == "auto" else self.device
        return _Open(load_model(self, device=where), data, self)

    def identity(self) -> dict[str, Any]:
        """The loading fields and the identity of the weights."""
        from limbeck.models.source import model_identity

        exclude = {"fine_tune", "model", "revision", "device", "adapter_path"}
        fields = self.model_dump(mode="json", exclude=exclude)
        return {**fields, "weights": model_identity(self)}


class _Open(OpenTeacher):
    def __init__(self, loaded: LoadedModel, data: Path, section: Transformers) -> None:
        from limbeck.models.vocabulary import shared_vocabulary

        self.loaded, self._section = loaded, section
        rows = self.loaded.model.get_output_embeddings().weight.shape[0]
        self._vocabulary = shared_vocabulary(loaded.tokenizer, loaded.tokenizer, rows, rows)
        self._prompts = EncodedPrompts(loaded.encoder, data)
        self._share_prefix = False

    def visual_tokens(self, sample: Sample) -> int:
        return self._prompts.of(sample).visual_tokens

    @property
    def vocabulary_rows(self) -> int:
        return self.loaded.model.get_output_embeddings().weight.shape[0]

    @property
    def answer_frame(self) -> tuple[str, list[int]]:
        return self.loaded.encoder.answer_prefix, self.loaded.encoder.end_ids

    def describe_memory(self) -> str:
        gib = self.loaded.model.get_memory_footprint() / 2**30
        kept = {"none": str(self.loaded.base.dtype).removeprefix("torch.")}
        kind = kept.get(self._section.quantization, self._section.quantization)
        return f"{gib:.3g} GiB of weights ({kind}) on {self.loaded.device}"

    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[Answer]:
        blank = decoding.blank_images
        items = [self._prompts.of(sample, blank_images=blank) for sample in samples]
        return self._generate(items, decoding)

    def stream(
        self, batches: Iterable[Sequence[Request]], decoding: Decoding, *, workers: int = 0
    ) -> Generator[Answered]:
        blank = decoding.blank_images
        for batch, items in self._prompts.batches(batches, blank_images=blank, workers=workers):
            # One seed a batch: another answer to the same samples needs another.
            yield batch, self._generate(items, decoding, number=batch[0].number)

    def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
        import torch

        from limbeck.models.shared_prefix import training_batch
        from limbeck.records import IGNORED

        items = self._prompts.with_answers(samples, answers)
        batch = training_batch(self.loaded, items, share_prefix=self._share_prefix)
        batch = batch.to(self.loaded.device)
        rows_BL = batch.targets_BL != IGNORED
        device_type = torch.device(self.loaded.device).type
        # Its own precision, also where the student trains in autocast: as the cache would have it.
        with torch.no_grad(), torch.autocast(device_type, enabled=False):
            hidden_NH = self.loaded.hidden_states(batch.inputs)[rows_BL]
            logits_NV = self._vocabulary.of(self.loaded.head(hidden_NH)).float()
        lengths = [len(item.answer_ids) for item in items]
        pieces = zip(items, logits_NV.split(lengths), hidden_NH.split(lengths), strict=True)
        return [
            ScoredAnswer(
                tuple(self._vocabulary.columns_of(item.answer_ids).tolist()),
                Dense(own_logits_NV),
                own_hidden_NH,
            )
            for item, own_logits_NV, own_hidden_NH in pieces
        ]

    def features(
        self, samples: Sequence[Sample], answers: Sequence[str], taps: Sequence[Tap]
    ) -> Features:
        from limbeck.data.tokens import collate
        from limbeck.models.taps import read_features

        items = self._prompts.with_answers(samples, answers)
        batch = collate(items, pad_id=self.loaded.encoder.pad_id, side="right")
        return read_features(self.loaded, batch.to(self.loaded.device), taps)

    @property
    def shape(self) -> ModelShape:
        from limbeck.models.taps import shape_of

        return shape_of(self.loaded.base.config)

    def share_prefixes(self, samples: Sequence[Sample]) -> str | None:
        from limbeck.data.packing import on_the_same_pictures
        from limbeck.models.shared_prefix import why_not_continued, why_not_packed

        encoder = self.loaded.encoder
        some = on_the_same_pictures(samples)
        if not some:
            return "no two samples show the same pictures"
        probe = encoder.answer_tokens(PROBE)
        items = [self._prompts.of(sample).with_answer(probe) for sample in some]
        reason = why_not_packed(self.loaded, items) or why_not_continued(self.loaded, items)
        self._share_prefix = reason is None
        return reason

    def linear_head(self) -> Tensor:
        from limbeck.models.head_matrix import head_matrix

        try:
            weight_RH = head_matrix(self.loaded)
        except UsageError as error:
            raise TeacherError(error.what, where=error.where, mend=error.mend) from error
        return self._vocabulary.of(weight_RH.T).T.contiguous()

    def check_image_sensitivity(self, samples: Sequence[Sample]) -> None:
        from limbeck.models.sensitivity import check_image_sensitivity

        sample = samples[0]
        if sample.references:
            answer = sample.references[0]
        else:
            answer = self.generate([sample], Decoding(max_new_tokens=32))[0].text
        try:
            check_image_sensitivity(self.loaded, sample, self._prompts.data, answer)
        except UsageError as error:
            where = f"teacher, sample {error.where}"
            raise TeacherError(error.what, where=where, mend=error.mend) from error

    def save_tokenizer(self, folder: Path) -> None:
        self.loaded.tokenizer.save_pretrained(folder)

    def _generate(
        self, items: Sequence[Encoded], decoding: Decoding, *, number: int = 0
    ) -> list[Answer]:
        generated = self.loaded.generate(
            items,
            max_new_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            seed=decoding.seed + number,
            share_prefix=self._share_prefix,
        )
        return [Answer(g.text, len(g.token_ids), g.finished) for g in generated]
