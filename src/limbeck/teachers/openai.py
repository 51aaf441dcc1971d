"""A teacher behind an OpenAI-compatible server: vLLM, `transformers serve`, a hosted API."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, JsonValue, model_validator

from limbeck.errors import TeacherError, UsageError
from limbeck.progress import say
from limbeck.records import Sample
from limbeck.served.client import Call
from limbeck.served.prompts import Pictures, chat_messages
from limbeck.served.replies import Reply
from limbeck.served.server import Server
from limbeck.store import content_key, fingerprint
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

if TYPE_CHECKING:
    from limbeck.served.distributions import Along

UNUSABLE_IN_A_ROW = 8
"""So many answers whose log-probabilities cannot be used, and none before, are no accident."""


class OpenAI(Teacher, Server):
    """A model behind an OpenAI-compatible server, with retries, limits and a cost cap.

    It gives text; with `log_probabilities` also those of the likeliest tokens of its own answers,
    where the server really sends them, and with `server: vllm` those along any answer. What was
    paid for is kept under `work/responses` and never asked for again.
    """

    is_served: ClassVar[bool] = True

    backend: Literal["openai"] = "openai"
    server: Literal["any", "vllm"] = Field(
        default="any", description="vllm: may be asked for what only vLLM has"
    )
    log_probabilities: bool = Field(
        default=False, description="the server gives them (label.signal: top_k); needs tokenizer"
    )
    scored_tokens: int = Field(
        default=20,
        gt=0,
        description="log-probabilities a token when vLLM scores an answer that it is given",
    )
    tokenizer: str | None = Field(
        default=None, description="hub id or folder of the model's tokenizer"
    )
    tokenizer_revision: str | None = Field(
        default=None, description="branch, tag or commit on the hub"
    )
    image_transport: Literal["data", "url"] = Field(
        default="data", description="url: an address from the sample's metadata"
    )
    image_url_field: str = Field(default="image_url", description="of the metadata, with url")
    image_format: Literal["png", "jpeg"] = Field(
        default="png", description="png: pixels as they are"
    )
    jpeg_quality: int = Field(default=90, ge=1, le=100, description="with jpeg")
    min_pixels: int | None = Field(default=None, gt=0, description="per image, before it is sent")
    max_pixels: int | None = Field(default=None, gt=0, description="per image, before it is sent")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = Field(
        default="max_tokens", description="what the server calls the limit of an answer"
    )
    extra_body: dict[str, JsonValue] = Field(
        default={}, description="more fields of every request; null takes one out"
    )

    @model_validator(mode="after")
    def _fits_together(self) -> OpenAI:
        if self.log_probabilities and self.tokenizer is None:
            raise UsageError(
                "is needed to know the tokens of log-probabilities",
                where="tokenizer",
                mend="give the hub id or folder of the served model",
            )
        if self.min_pixels and self.max_pixels and self.min_pixels > self.max_pixels:
            raise ValueError("min_pixels is above max_pixels")
        if fixed := sorted({"messages", "model", "stream", "n"} & self.extra_body.keys()):
            raise UsageError("is not a field to add", where=f"extra_body.{fixed[0]}")
        return self

    def capabilities(self) -> frozenset[Capability]:
        """Text; what else the recipe says of the server, which is checked with every answer."""
        if not self.log_probabilities:
            return frozenset()
        scores: tuple[Capability, ...] = ("score",) if self.server == "vllm" else ()
        return frozenset(("log_probabilities", *scores))

    def open(
        self, data: Path, *, device: str, responses: Path | None = None, job: str = ""
    ) -> OpenTeacher:
        """Look up the key and what was paid for; the server is not asked anything yet."""
        del device
        return _Open(self, data, responses, job)

    def identity(self) -> dict[str, Any]:
        """Server and model, and what shapes a request."""
        from limbeck.models.source import tokenizer_identity

        fields = self.model_dump(mode="json", exclude={*Server.model_fields, *_WITHOUT_EFFECT})
        tokenizer = self.tokenizer and tokenizer_identity(self.tokenizer, self.tokenizer_revision)
        return {**self.served_as(), **fields, "tokenizer": tokenizer}


_WITHOUT_EFFECT = {"log_probabilities", "tokenizer", "tokenizer_revision"}
"""Fields of which only the tokenizer's content, or what a request asks for, changes anything."""


class _Open(OpenTeacher):
    batched = False

    def __init__(self, section: OpenAI, data: Path, responses: Path | None, job: str) -> None:
        from limbeck.models.source import tokenizer_folder
        from limbeck.served.ledger import Ledger
        from limbeck.served.vocabulary import ServedVocabulary
        from limbeck.served.window import Window

        self._section = section
        self._identity = section.identity()
        self._pictures = pictures_of(section, data)
        self._vocabulary = None
        if section.tokenizer is not None:
            folder = tokenizer_folder(section.tokenizer, section.tokenizer_revision)
            self._vocabulary = ServedVocabulary(folder)
        folder = responses / fingerprint(self._identity) if responses else None
        key = section.key()
        if key is not None and section.is_plain:
            say(f"  warning: the key and the pictures go to {section.base_url} unencrypted (http)")
        self._usable, self._unusable = 0, 0
        self._window = Window(section, Ledger(folder, self._identity), job, key)

    def close(self) -> None:
        self._window.close()

    def usage(self) -> dict[str, float]:
        return self._window.account.facts()

    def describe_memory(self) -> str:
        return f"none here: {self._section.model} is served at {self._section.base_url}"

    def visual_tokens(self, sample: Sample) -> int | None:
        return None

    @property
    def vocabulary_rows(self) -> int | None:
        return None if self._vocabulary is None else self._vocabulary.rows

    @property
    def answer_frame(self) -> tuple[str, list[int]]:
        assert self._vocabulary is not None, "asked of a teacher without tokenizer"
        return self._vocabulary.prefix, self._vocabulary.end_ids

    def save_tokenizer(self, folder: Path) -> None:
        assert self._vocabulary is not None, "asked of a teacher without tokenizer"
        self._vocabulary.tokenizer.save_pretrained(folder)

    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[Answer]:
        asked = [(number, Request(sample)) for number, sample in enumerate(samples)]
        answers: dict[int, Answer] = {}
        calls = [(number, self._written(request, decoding)) for number, request in asked]
        with closing(self._window.replies(calls)) as groups:
            for group in groups:
                answers |= {number: self._answer(reply, decoding) for number, reply in group}
        return [answers[number] for number, _ in asked]

    def stream(
        self, batches: Iterable[Sequence[Request]], decoding: Decoding, *, workers: int = 0
    ) -> Generator[Answered]:
        del workers
        asked = [request for batch in batches for request in batch]
        calls = [(request, self._written(request, decoding)) for request in asked]
        with closing(self._window.replies(calls)) as groups:
            for group in groups:
                answers = [self._answer(reply, decoding) for _, reply in group]
                yield [request for request, _ in group], answers

    def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
        if "score" not in self._section.capabilities():
            return super().score(samples, answers)
        pairs = list(zip(samples, answers, strict=True))
        calls = [(n, self._given(sample, text)) for n, (sample, text) in enumerate(pairs)]
        found: dict[int, ScoredAnswer] = {}
        with closing(self._window.replies(calls)) as groups:
            for group in groups:
                found |= {number: self._score(*pairs[number], reply) for number, reply in group}
        return [found[number] for number in range(len(pairs))]

    def _score(self, sample: Sample, text: str, reply: Reply) -> ScoredAnswer:
        from limbeck.served.distributions import along_given
        from limbeck.served.vocabulary import UnusableError

        assert self._vocabulary is not None
        where = f"{self._section.base_url}, sample {sample.id}"
        if reply.failure is not None:
            raise TeacherError(reply.failure, where=where)
        k = self._section.scored_tokens
        try:
            return _scored(along_given(reply, text, k, self._vocabulary, where=where))
        except UnusableError as error:
            raise TeacherError(
                f"the answer cannot be scored: {error}",
                where=where,
                mend="check that teacher.tokenizer is the served model's",
            ) from error

    def _answer(self, reply: Reply, decoding: Decoding) -> Answer:
        text = reply.text
        if self._vocabulary is not None:
            text = text.removeprefix(self._vocabulary.prefix)
        tokens = reply.answer_tokens or 0
        if reply.failure is not None or not decoding.top_log_probabilities:
            return Answer(text, tokens, reply.finished, reply.failure)
        if not reply.finished or not text.strip():
            # Unfit as a rule; where the recipe allows it, only a server that scores can help.
            can_score = "score" in self._section.capabilities()
            failure = None if can_score or not text.strip() else "cut by max_new_tokens"
            return Answer(text, tokens, reply.finished, failure)
        return self._with_distributions(reply, text, tokens, decoding.top_log_probabilities)

    def _with_distributions(self, reply: Reply, text: str, tokens: int, k: int) -> Answer:
        from limbeck.served.distributions import along_written
        from limbeck.served.vocabulary import UnusableError

        assert self._vocabulary is not None
        where = self._section.base_url
        try:
            along = along_written(reply, text, k, self._vocabulary, where=where)
        except UnusableError as error:
            self._unusable += 1
            if not self._usable and self._unusable >= UNUSABLE_IN_A_ROW:
                raise TeacherError(
                    f"none of {self._unusable} answers has usable log-probabilities, the last: "
                    f"{error}",
                    where=where,
                    mend="check that teacher.tokenizer is the served model's, or set label.signal "
                    "to none",
                ) from error
            return Answer(text, tokens, True, f"log-probabilities cannot be used: {error}")
        self._usable += 1
        return Answer(
            text,
            tokens,
            True,
            mean_log_probability=along.mean_log_probability,
            scored=_scored(along),
        )

    def _written(self, request: Request, decoding: Decoding) -> Call:
        """A call for an answer."""
        sample, number = request.sample, request.number
        fields: dict[str, Any] = {
            self._section.max_tokens_field: decoding.max_new_tokens,
            "temperature": decoding.temperature,
        }
        if decoding.temperature > 0:
            fields["seed"] = decoding.seed + number
        if k := decoding.top_log_probabilities:
            fields |= {"logprobs": True, "top_logprobs": k}
            if self._section.server == "vllm":
                fields["return_tokens_as_token_ids"] = True
        asked = {**fields, "number": number, "blank_images": decoding.blank_images}
        body = partial(self._body, sample, fields, blank=decoding.blank_images)
        return Call(self._key(sample, asked), body, decoding.max_new_tokens, sample.id)

    def _given(self, sample: Sample, answer: str) -> Call:
        """A call for the distributions along an answer; vLLM has to write a token as well."""
        from limbeck.served.distributions import TEMPLATE_TOKENS

        assert self._vocabulary is not None
        fields: dict[str, Any] = {
            self._section.max_tokens_field: 1,
            "temperature": 0.0,
            "prompt_logprobs": self._section.scored_tokens,
            "return_token_ids": True,
            "add_generation_prompt": False,
        }
        tail = len(self._vocabulary.answer_tokens(answer)) + TEMPLATE_TOKENS
        body = partial(self._body, sample, fields, answer=answer)
        return Call(self._key(sample, {**fields, "answer": answer}), body, 1, sample.id, tail)

    def _key(self, sample: Sample, asked: dict[str, Any]) -> str:
        """Identifies everything that determines the answer."""
        urls = None
        if self._section.image_transport == "url":
            urls = sample.metadata.get(self._section.image_url_field)
        return content_key(
            {
                "teacher": self._identity,
                "messages": sample.messages,
                "images": [image.sha256 for image in sample.images],
                "urls": urls,
                "asked": asked,
            }
        )

    def _body(
        self,
        sample: Sample,
        fields: dict[str, Any],
        *,
        answer: str | None = None,
        blank: bool = False,
    ) -> dict[str, Any]:
        """The request's JSON, with the pictures."""
        messages = chat_messages(sample.messages, self._pictures.urls(sample, blank=blank))
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        return request_body(self._section, messages, fields)


def pictures_of(section: OpenAI, data: Path) -> Pictures:
    """How pictures travel to this server; `data` is the folder that holds them."""
    return Pictures(
        data,
        section.image_transport,
        section.image_url_field,
        section.image_format,
        section.jpeg_quality,
        section.min_pixels,
        section.max_pixels,
    )


def request_body(
    section: OpenAI, messages: Sequence[dict[str, Any]], fields: dict[str, Any]
) -> dict[str, Any]:
    """The JSON of a request, with what the recipe adds to every one."""
    body = {"model": section.model, "messages": messages, **fields, **section.extra_body}
    return {name: value for name, value in body.items() if value is not None}


def _scored(along: Along) -> ScoredAnswer:
    return ScoredAnswer(along.answer_ids, along.signal)
