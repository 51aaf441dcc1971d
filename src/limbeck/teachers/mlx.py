"""A teacher that runs through mlx-vlm, in a process of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from limbeck.errors import TeacherError
from limbeck.records import Dense, Sample
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
from limbeck.teachers.made_prompts import LocalWeights, MadePrompts, seed_of

if TYPE_CHECKING:
    from limbeck.data.tokens import Encoded


class Mlx(Teacher, LocalWeights):
    """Any model of mlx-vlm, on Apple silicon or a Linux CPU, also 4-bit and 8-bit folders for MLX.

    mlx-vlm need not be installed beside Limbeck: `python` may be that of another environment. The
    model gets the tokens and pixels that the `transformers` backend would give it, sample by
    sample: a batch is the unit of saving, not of computing.
    """

    backend: Literal["mlx"] = "mlx"
    python: str = Field(
        default="", description="a Python that has mlx-vlm; default: the one that runs Limbeck"
    )
    timeout_seconds: float = Field(
        default=600.0, gt=0, description="longest wait for one answer, or for the model to load"
    )

    def capabilities(self) -> frozenset[Capability]:
        """Whole distributions along answers."""
        return frozenset(("score", "whole_distributions"))

    def open(
        self, data: Path, *, device: str, responses: Path | None = None, job: str = ""
    ) -> OpenTeacher:
        """Start the process and load the model; mlx takes its own default device."""
        return _Open(self, data)

    def identity(self) -> dict[str, Any]:
        """The fields that change answers, and the identity of the weights."""
        return self.weights_identity("python", "timeout_seconds")


class _Open(MadePrompts):
    def __init__(self, section: Mlx, data: Path) -> None:
        from limbeck.teachers.workers.process import WorkerProcess

        super().__init__(section.load_prompts(), data)
        self._encoded = EncodedPrompts(self.prompts.encoder, data)
        self._derived: TemporaryDirectory[str] | None = None
        self._worker = WorkerProcess.of(
            "mlx_worker.py", python=section.python, timeout_seconds=section.timeout_seconds
        )
        try:
            self._about = self._load(section)
        except BaseException:
            self.close()
            raise

    def describe_memory(self) -> str:
        about = self._about
        gib = about["bytes"] / 2**30
        return f"{gib:.3g} GiB of weights ({about['dtype']}) on {about['device']}, by mlx"

    def stream(
        self, batches: Iterable[Sequence[Request]], decoding: Decoding, *, workers: int = 0
    ) -> Iterator[Answered]:
        blank = decoding.blank_images
        for batch, items in self._encoded.batches(batches, blank_images=blank, workers=workers):
            yield batch, self._answer_all(batch, items, decoding)

    def answer(self, requests: Sequence[Request], decoding: Decoding) -> list[Answer]:
        blank = decoding.blank_images
        items = [self._encoded.of(r.sample, blank_images=blank) for r in requests]
        return self._answer_all(requests, items, decoding)

    def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
        scored: list[ScoredAnswer] = []
        for sample, item in zip(samples, self._encoded.with_answers(samples, answers), strict=True):
            signal = Dense(self.prompts.vocabulary.of(self._logits(item)))
            ids = self.columns_of(item.answer_ids.tolist(), sample)
            scored.append(ScoredAnswer(ids, signal))
        return scored

    def check_image_sensitivity(self, samples: Sequence[Sample]) -> None:
        from limbeck.errors import UsageError
        from limbeck.models.sensitivity import check_moves

        sample = samples[0]
        answer = sample.references[0] if sample.references else "?"
        try:
            check_moves(self._logits, self.prompts.encoder, sample, self.data, answer)
        except UsageError as error:
            where = f"teacher, sample {error.where}"
            raise TeacherError(error.what, where=where, mend=error.mend) from error

    def close(self) -> None:
        self._worker.close()
        if self._derived is not None:
            self._derived.cleanup()

    def _load(self, section: Mlx) -> dict[str, Any]:
        from limbeck.teachers.mlx_folder import readable_folder

        folder, self._derived = readable_folder(self.prompts.folder)
        about, _ = self._worker.load("mlx-vlm", section.python, folder=str(folder.resolve()))
        return about

    def _answer_all(
        self, requests: Sequence[Request], items: Sequence[Encoded], decoding: Decoding
    ) -> list[Answer]:
        pairs = zip(requests, items, strict=True)
        return [self._answer(request, item, decoding) for request, item in pairs]

    def _answer(self, request: Request, item: Encoded, decoding: Decoding) -> Answer:
        _, arrays = self._worker.ask(
            "generate",
            _arrays(item),
            max_new_tokens=decoding.max_new_tokens,
            temperature=decoding.temperature,
            seed=seed_of(request, decoding.seed, bits=32),
            end_ids=list(self.prompts.end_ids),
        )
        body, whole, finished = self.prompts.split_at_end(arrays["tokens"].tolist())
        return Answer(self.prompts.encoder.answer_text(body), len(whole), finished)

    def _logits(self, item: Encoded) -> Any:
        """Logits [N, R] along the item's answer, over all rows of the head."""
        import torch

        tokens = len(item.answer_ids)
        _, arrays = self._worker.ask("score", _arrays(item), answer_tokens=tokens)
        logits_NR = arrays["logits"]
        if logits_NR.shape != (tokens, self.vocabulary_rows):
            raise TeacherError(
                f"the teacher's logits are {logits_NR.shape}, not"
                f" {(tokens, self.vocabulary_rows)}: its head is not what config.json says"
            )
        return torch.from_numpy(logits_NR)


def _arrays(item: Encoded) -> dict[str, Any]:
    """What the model reads of a sample; its tokens as one row."""
    features = {name: tensor.numpy() for name, tensor in item.features.items()}
    return {"input_ids": item.input_ids_L.numpy().astype("int32")[None], **features}
