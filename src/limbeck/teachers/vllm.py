"""A teacher that runs through vLLM's offline engine, in a process of its own."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from limbeck.errors import TeacherError
from limbeck.records import Sample
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
from limbeck.teachers.made_prompts import LocalWeights, MadePrompts, seed_of

SMALLEST_MOVE_NATS = 1e-3
SPARE_TOKENS = 8
"""Asked for beyond those that are kept, where padding rows of the head can be among them."""


class Vllm(Teacher, LocalWeights):
    """Any vision-language model of vLLM; many requests at once, log-probabilities of the likeliest.

    vLLM wants other versions of torch and transformers than Limbeck does: `python` names that of an
    environment of its own. Under torchrun every rank has an engine on its own
    `tensor_parallel_size` cards and answers its share of the samples.
    """

    backend: Literal["vllm"] = "vllm"
    python: str = Field(
        default="", description="a Python that has vLLM; default: the one that runs Limbeck"
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="of the weights; auto: as stored"
    )
    quantization: str | None = Field(
        default=None, description="one of vLLM's, e.g. fp8; default: as the folder says"
    )
    adapter_path: str | None = Field(
        default=None, description="folder of a LoRA adapter of peft, applied by vLLM"
    )
    tensor_parallel_size: int = Field(default=1, gt=0, description="cards that share one model")
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="share of each card's memory that vLLM takes"
    )
    images_per_prompt: int | None = Field(
        default=None, gt=0, description="the most that a prompt has; default: vLLM's own limit"
    )
    log_probabilities: int = Field(
        default=64, gt=0, description="tokens told along given answers; label.top_k at least"
    )
    requests_at_once: int = Field(
        default=256, gt=0, description="given to the engine together; a kill loses these at most"
    )
    timeout_seconds: float = Field(
        default=3600.0, gt=0, description="longest wait for requests_at_once, or for the start"
    )

    def capabilities(self) -> frozenset[Capability]:
        """Log-probabilities of the likeliest tokens, with its answers and along given ones."""
        return frozenset(("score", "log_probabilities"))

    def open(
        self, data: Path, *, device: str, responses: Path | None = None, job: str = ""
    ) -> OpenTeacher:
        """Start the engine, on the cards of this rank."""
        return _Open(self, data)

    def identity(self) -> dict[str, Any]:
        """The fields that change answers, and the identity of weights and adapter."""
        without_effect = (
            "python",
            "adapter_path",
            "tensor_parallel_size",
            "gpu_memory_utilization",
            "images_per_prompt",
            "log_probabilities",
            "requests_at_once",
            "timeout_seconds",
        )
        identity = self.weights_identity(*without_effect)
        if self.adapter_path is not None:
            from limbeck.teachers.vllm_engine import adapter_identity

            identity["adapter"] = adapter_identity(Path(self.adapter_path).expanduser())
        return identity


class _Open(MadePrompts):
    def __init__(self, section: Vllm, data: Path) -> None:
        from limbeck.teachers.vllm_engine import (
            adapter_arguments,
            engine_arguments,
            environment_of_rank,
        )
        from limbeck.teachers.workers.process import WorkerProcess

        super().__init__(section.load_prompts(), data)
        self._section = section
        self._worker = WorkerProcess.of(
            "vllm_worker.py",
            python=section.python,
            environment=environment_of_rank(os.environ, section.tensor_parallel_size),
            timeout_seconds=section.timeout_seconds,
        )
        try:
            self._about, _ = self._worker.load(
                "vLLM",
                section.python,
                engine=engine_arguments(section, self.prompts),
                **adapter_arguments(section),
            )
        except BaseException:
            self.close()
            raise

    def describe_memory(self) -> str:
        share = self._section.gpu_memory_utilization
        about = self._about
        return f"{share:.0%} of its cards, weights {about['dtype']}, by vLLM {about['version']}"

    def stream(
        self, batches: Iterable[Sequence[Request]], decoding: Decoding, *, workers: int = 0
    ) -> Iterator[Answered]:
        del workers  # the engine prepares pictures while the model runs
        group: list[Sequence[Request]] = []
        for batch in batches:
            if group and sum(map(len, group)) + len(batch) > self._section.requests_at_once:
                yield from self._answer_group(group, decoding)
                group = []
            group.append(batch)
        if group:
            yield from self._answer_group(group, decoding)

    def answer(self, requests: Sequence[Request], decoding: Decoding) -> list[Answer]:
        asked, arrays = self._requests(
            [r.sample for r in requests], blank_images=decoding.blank_images
        )
        for request, fields in zip(requests, asked, strict=True):
            fields["sampling"] = {
                "temperature": decoding.temperature,
                "seed": seed_of(request, decoding.seed, bits=63),
                "max_tokens": decoding.max_new_tokens,
                "stop_token_ids": list(self.prompts.end_ids),
                "logprobs": self._asked_for(decoding.top_log_probabilities) or None,
            }
        told, found = self._worker.ask("answer", arrays, requests=asked)
        return [
            self._answer(request.sample, said, _rows(found, number), decoding)
            for number, (request, said) in enumerate(zip(requests, told["answers"], strict=True))
        ]

    def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
        encoder = self.prompts.encoder
        tokens = [encoder.answer_tokens(answer) for answer in answers]
        _, rows = self._score(samples, tokens)
        return [
            self._scored(sample, ids, own, self._section.log_probabilities)
            for sample, ids, own in zip(samples, tokens, rows, strict=True)
        ]

    def check_image_sensitivity(self, samples: Sequence[Sample]) -> None:
        """As for any teacher, by log-probabilities; also that the engine makes the same prompt."""
        asked = samples[:4]
        encoder = self.prompts.encoder
        answer = encoder.answer_tokens(asked[0].references[0] if asked[0].references else "?")
        answers = [answer] * len(asked)
        prompts, seen = self._score(asked, answers)
        _, blank = self._score(asked, answers, blank_images=True)
        own = encoder.encode(asked[0], self.data, None).input_ids_L.tolist()
        if prompts[0][: -len(answer)] != own:
            raise TeacherError(
                f"vLLM makes {len(prompts[0]) - len(answer)} tokens of the prompt and its pictures,"
                f" and the model's own processor {len(own)}",
                where=f"teacher, sample {asked[0].id}",
                mend="leave min_pixels and max_pixels out, or use a version of vLLM that keeps"
                " them for this model",
            )
        moves = [
            abs(row[token] - other[token])
            for rows, others in zip(seen, blank, strict=True)
            for token, row, other in zip(answer, rows, others, strict=True)
        ]
        if max(moves) < SMALLEST_MOVE_NATS:
            raise TeacherError(
                "the pictures do not reach the teacher: blanked, they move no log-probability",
                where=", ".join(sample.id for sample in asked),
                mend="check that the model takes pictures and that its chat template has a place"
                " for them",
            )

    def close(self) -> None:
        self._worker.close()

    def _answer_group(
        self, group: Sequence[Sequence[Request]], decoding: Decoding
    ) -> Iterator[Answered]:
        answers = iter(self.answer([request for batch in group for request in batch], decoding))
        for batch in group:
            yield batch, [next(answers) for _ in batch]

    def _requests(
        self,
        samples: Sequence[Sample],
        answers: Sequence[Sequence[int]] | None = None,
        *,
        blank_images: bool = False,
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        import numpy as np

        encoder = self.prompts.encoder
        asked: list[dict[str, Any]] = []
        arrays: dict[str, Any] = {}
        for number, sample in enumerate(samples):
            pictures = encoder.pictures(sample, self.data, blank_images=blank_images)
            arrays |= {f"picture-{number}-{n}": np.asarray(p) for n, p in enumerate(pictures)}
            ids = encoder.prompt_tokens(sample)
            answer = [] if answers is None else list(answers[number])
            asked.append({"prompt": [*ids, *answer], "pictures": len(pictures)})
        return asked, arrays

    def _score(
        self,
        samples: Sequence[Sample],
        answers: Sequence[Sequence[int]],
        *,
        blank_images: bool = False,
    ) -> tuple[list[list[int]], list[list[dict[int, float]]]]:
        """The engine's prompts, answers included, and rows of log-probabilities along these."""
        asked, arrays = self._requests(samples, answers, blank_images=blank_images)
        for fields, answer in zip(asked, answers, strict=True):
            fields["answer_tokens"] = len(answer)
            fields["log_probabilities"] = self._asked_for(self._section.log_probabilities)
        told, found = self._worker.ask("score", arrays, requests=asked)
        prompts = [said["tokens"] for said in told["answers"]]
        return prompts, [_rows(found, number) or [] for number in range(len(asked))]

    def _asked_for(self, kept: int) -> int:
        padding = self.prompts.head_rows - self.prompts.vocabulary.size
        return min(kept + min(padding, SPARE_TOKENS), self.prompts.head_rows) if kept else 0

    def _answer(
        self,
        sample: Sample,
        said: Mapping[str, Any],
        rows: list[dict[int, float]] | None,
        decoding: Decoding,
    ) -> Answer:
        from limbeck.signals.from_server import mean_log_probability, retokenised_otherwise

        body, whole, finished = self.prompts.split_at_end(said["tokens"])
        text = self.prompts.encoder.answer_text(body)
        if rows is None:
            return Answer(text, len(whole), finished)
        rows = rows[: len(whole)]
        mean = mean_log_probability(rows, whole)
        scored = None
        if retokenised_otherwise(whole, self.prompts.encoder.answer_tokens(text)) is None:
            scored = self._scored(sample, whole, rows, decoding.top_log_probabilities)
        return Answer(text, len(whole), finished, mean_log_probability=mean, scored=scored)

    def _scored(
        self, sample: Sample, ids: Sequence[int], rows: Sequence[Mapping[int, float]], kept: int
    ) -> ScoredAnswer:
        from limbeck.signals.from_server import top_k_from_rows

        column_of = self.prompts.vocabulary.column_of
        real = [
            {
                column: logp
                for token, logp in row.items()
                if (column := column_of(token)) is not None
            }
            for row in rows
        ]
        columns = self.columns_of(ids, sample)
        kept = min(kept, self.prompts.vocabulary.size)
        return ScoredAnswer(columns, top_k_from_rows(real, kept, columns))


def _rows(found: Mapping[str, Any], number: int) -> list[dict[int, float]] | None:
    """A request's log-probabilities by token; None where none came."""
    if f"ids-{number}" not in found:
        return None
    pairs = zip(found[f"ids-{number}"].tolist(), found[f"logp-{number}"].tolist(), strict=True)
    return [
        {token: logp for token, logp in zip(ids, logps, strict=True) if token >= 0}
        for ids, logps in pairs
    ]
