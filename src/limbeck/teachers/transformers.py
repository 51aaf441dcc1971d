"""A teacher that runs in this process through transformers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from limbeck.errors import TeacherError, UsageError
from limbeck.recipe.sections import FineTune, ModelSection
from limbeck.records import Sample
from limbeck.teachers import Answer, OpenTeacher, ScoredAnswer, Teacher

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.models.load import LoadedModel


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

    def open(self, data: Path, *, device: str) -> OpenTeacher:
        """Load the model; `model` must be a hub id or a folder by now."""
        from limbeck.models.load import load_model

        where = device if self.device == "auto" else self.device
        return _Open(load_model(self, device=where), data, self)

    def identity(self) -> dict[str, Any]:
        """The loading fields and the identity of the weights."""
        from limbeck.models.source import model_identity

        fields = self.model_dump(mode="json", exclude={"fine_tune", "model", "revision", "device"})
        return {**fields, "weights": model_identity(self)}


class _Open:
    def __init__(self, loaded: LoadedModel, data: Path, section: Transformers) -> None:
        from limbeck.models.vocabulary import shared_vocabulary

        self.loaded, self._data, self._section = loaded, data, section
        rows = self.vocabulary_rows
        self._vocabulary = shared_vocabulary(loaded.tokenizer, loaded.tokenizer, rows, rows)

    def visual_tokens(self, sample: Sample) -> int:
        return self.loaded.encoder.encode(sample, self._data, None).visual_tokens

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

    def generate(
        self, samples: Sequence[Sample], *, max_new_tokens: int, temperature: float, seed: int
    ) -> list[Answer]:
        items = [self.loaded.encoder.encode(sample, self._data, None) for sample in samples]
        generated = self.loaded.generate(
            items, max_new_tokens=max_new_tokens, temperature=temperature, seed=seed
        )
        return [Answer(g.text, len(g.token_ids), g.finished) for g in generated]

    def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
        import torch

        from limbeck.data.tokens import collate
        from limbeck.records import IGNORED

        encoder = self.loaded.encoder
        items = [encoder.encode(s, self._data, a) for s, a in zip(samples, answers, strict=True)]
        batch = collate(items, pad_id=encoder.pad_id, side="right").to(self.loaded.device)
        rows_BL = batch.targets_BL != IGNORED
        device_type = torch.device(self.loaded.device).type
        # Its own precision, also where the student trains in autocast: as the cache would have it.
        with torch.no_grad(), torch.autocast(device_type, enabled=False):
            hidden_NH = self.loaded.hidden_states(batch.inputs)[rows_BL]
            logits_NV = self._vocabulary.of(self.loaded.head(hidden_NH)).float()
        lengths = [len(item.answer_ids) for item in items]
        pieces = zip(items, logits_NV.split(lengths), hidden_NH.split(lengths), strict=True)
        return [
            ScoredAnswer(tuple(self._vocabulary.columns_of(item.answer_ids).tolist()), *tensors)
            for item, *tensors in pieces
        ]

    def linear_head(self) -> Tensor:
        from limbeck.models.head_matrix import head_matrix

        try:
            weight_RH = head_matrix(self.loaded)
        except UsageError as error:
            raise TeacherError(error.what, where=error.where, mend=error.mend) from error
        return self._vocabulary.of(weight_RH.T).T.contiguous()

    def expected_length(self, sample: Sample) -> int:
        from limbeck.data.tokens import expected_prompt_tokens

        return expected_prompt_tokens(sample)

    def check_image_sensitivity(self, sample: Sample, answer: str) -> None:
        from limbeck.models.sensitivity import check_image_sensitivity

        try:
            check_image_sensitivity(self.loaded, sample, self._data, answer)
        except UsageError as error:
            where = f"teacher, sample {error.where}"
            raise TeacherError(error.what, where=where, mend=error.mend) from error

    def save_tokenizer(self, folder: Path) -> None:
        self.loaded.tokenizer.save_pretrained(folder)
