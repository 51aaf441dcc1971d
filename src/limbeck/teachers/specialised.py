"""A teacher's own way of being asked: a system prompt, and gold examples as earlier turns.

Whatever the backend, samples are rewritten before it sees them; the student is asked as the data
has it. Everything here is part of the teacher's identity.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SerializeAsAny

from limbeck.data.samples import read_samples
from limbeck.errors import DataError
from limbeck.recipe.few_shot import FewShot
from limbeck.records import Features, Message, ModelShape, Sample, Tap
from limbeck.store import fingerprint
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
    from torch import Tensor


@dataclass(frozen=True)
class Prompting:
    """How samples are rewritten for a teacher.

    `examples` are in the order in which they are wanted; at most `count` are shown.
    """

    system_prompt: str | None = None
    examples: tuple[Sample, ...] = ()
    count: int = 0

    @classmethod
    def of(cls, teacher: Teacher, data: Path) -> Prompting:
        """What the teacher's fields say, with the examples of a data stage's folder.

        Raises:
            DataError: an example is not there or has no gold answer, or there are too few.
        """
        few_shot = teacher.few_shot
        if few_shot is None:
            return cls(teacher.system_prompt)
        examples = _chosen(few_shot, data)
        count = few_shot.count or len(examples)
        # From anywhere: what is asked about may lie in another folder, such as blanked pictures.
        found = tuple(_with_whole_paths(sample, data) for sample in examples)
        return cls(teacher.system_prompt, found, count)

    def ask(self, sample: Sample) -> Sample:
        """The sample as the teacher is asked about it; the same id, references and metadata."""
        shown = list(self._shown_for(sample))
        system, question = _parted(sample.messages)
        if self.system_prompt is not None:
            system = [{"type": "text", "text": self.system_prompt}, *_after_a_line(system)]
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        for example in shown:
            messages += _parted(example.messages)[1]
            answer = [{"type": "text", "text": example.references[0]}]
            messages.append({"role": "assistant", "content": answer})
        images = [image for one in (*shown, sample) for image in one.images]
        return replace(sample, messages=(*messages, *question), images=tuple(images))

    def key(self) -> dict[str, Any]:
        """What of it can change an answer, examples by content; empty where nothing does."""
        found: dict[str, Any] = {}
        if self.system_prompt is not None:
            found["system_prompt"] = self.system_prompt
        if self.examples:
            content = [
                (one.id, one.messages, [image.sha256 for image in one.images], one.references[0])
                for one in self.examples
            ]
            found["examples"] = [one.id for one in self.examples[: self.count]]
            found["examples_content"] = fingerprint(content)
        return found

    def _shown_for(self, sample: Sample) -> Iterator[Sample]:
        own = {image.sha256 for image in sample.images}
        others = (
            one
            for one in self.examples
            if one.id != sample.id and own.isdisjoint(image.sha256 for image in one.images)
        )
        return islice(others, self.count)


class Specialised(Teacher):
    """A teacher that is asked by its own prompting; made by `specialised`, in no recipe."""

    teacher: SerializeAsAny[Teacher]
    data: Path

    @property
    def word(self) -> str:
        """That of the teacher."""
        return self.teacher.word

    def capabilities(self) -> frozenset[Capability]:
        """Those of the teacher."""
        return self.teacher.capabilities()

    def open(
        self, data: Path, *, device: str, responses: Path | None = None, job: str = ""
    ) -> OpenTeacher:
        """Open the teacher; examples come from the data stage's folder even if `data` is not it."""
        prompting = Prompting.of(self.teacher, self.data)
        session = self.teacher.open(data, device=device, responses=responses, job=job)
        return _Open(session, prompting)

    def identity(self) -> dict[str, Any]:
        """That of the teacher, and the examples."""
        prompting = Prompting.of(self.teacher, self.data)
        return {**self.teacher.identity(), "prompting": prompting.key()}


def specialised(teacher: Teacher, data: Path) -> Teacher:
    """The teacher as its `system_prompt` and `few_shot` want it asked.

    Args:
        teacher: of any backend.
        data: the data stage's folder, which the examples come from.
    """
    return Specialised(teacher=teacher, data=data) if teacher.prompting_fields() else teacher


class _Open(OpenTeacher):
    def __init__(self, session: OpenTeacher, prompting: Prompting) -> None:
        self._session, self._ask = session, prompting.ask

    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[Answer]:
        return self._session.generate(list(map(self._ask, samples)), decoding)

    def stream(
        self, batches: Iterable[Sequence[Request]], decoding: Decoding, *, workers: int = 0
    ) -> Iterator[Answered]:
        planned = [list(batch) for batch in batches]
        asked = {(r.sample.id, r.number): r for batch in planned for r in batch}
        rewritten = (
            [replace(request, sample=self._ask(request.sample)) for request in batch]
            for batch in planned
        )
        for requests, answers in self._session.stream(rewritten, decoding, workers=workers):
            yield [asked[request.sample.id, request.number] for request in requests], answers

    def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
        return self._session.score(list(map(self._ask, samples)), answers)

    @property
    def batched(self) -> bool:  # type: ignore[override]
        return self._session.batched

    def features(
        self, samples: Sequence[Sample], answers: Sequence[str], taps: Sequence[Tap]
    ) -> Features:
        return self._session.features(list(map(self._ask, samples)), answers, taps)

    @property
    def shape(self) -> ModelShape:
        return self._session.shape

    def share_prefixes(self, samples: Sequence[Sample]) -> str | None:
        return self._session.share_prefixes(list(map(self._ask, samples)))

    def expected_length(self, sample: Sample) -> int:
        return self._session.expected_length(self._ask(sample))

    def check_image_sensitivity(self, samples: Sequence[Sample]) -> None:
        # Without the examples, whose pictures would be blanked too and move the answer themselves.
        self._session.check_image_sensitivity(samples)

    def visual_tokens(self, sample: Sample) -> int | None:
        """Of the sample's own pictures, which the student sees too."""
        return self._session.visual_tokens(sample)

    def save_tokenizer(self, folder: Path) -> None:
        self._session.save_tokenizer(folder)

    def linear_head(self) -> Tensor:
        return self._session.linear_head()

    @property
    def vocabulary_rows(self) -> int | None:
        return self._session.vocabulary_rows

    @property
    def answer_frame(self) -> tuple[str, list[int]]:
        return self._session.answer_frame

    def describe_memory(self) -> str:
        return self._session.describe_memory()

    def usage(self) -> dict[str, float]:
        return self._session.usage()

    def close(self) -> None:
        self._session.close()


def _chosen(few_shot: FewShot, data: Path) -> list[Sample]:
    """The examples in the order in which they are wanted: the listed ones, or a drawn order."""
    if few_shot.ids is not None:
        known = {sample.id: sample for sample in read_samples(data)}
        if missing := [i for i in few_shot.ids if i not in known]:
            raise DataError(f"no sample {missing[0]!r} in the data", where="teacher.few_shot.ids")
        chosen = [known[i] for i in few_shot.ids]
        if without := [sample.id for sample in chosen if not sample.references]:
            raise DataError(
                f"sample {without[0]} has no gold answer to show", where="teacher.few_shot.ids"
            )
        return chosen
    drawn = [sample for sample in read_samples(data, few_shot.split) if sample.references]
    assert few_shot.count is not None
    if len(drawn) <= few_shot.count:
        raise DataError(
            f"{few_shot.count} examples, and one to stand in, need more than the {len(drawn)} gold"
            f" answers of split {few_shot.split!r}",
            where="teacher.few_shot.count",
            mend="show fewer, or draw from a larger split",
        )

    def place(sample: Sample) -> bytes:
        return hashlib.sha256(f"{few_shot.seed} {sample.id}".encode()).digest()

    return sorted(drawn, key=place)


def _with_whole_paths(sample: Sample, data: Path) -> Sample:
    whole = (replace(image, path=str(data.absolute() / image.path)) for image in sample.images)
    return replace(sample, images=tuple(whole))


def _parted(messages: Sequence[Message]) -> tuple[list[Any], list[Message]]:
    """The content of the system turn (empty without one), and the other turns."""
    first, *rest = messages
    if first["role"] != "system":
        return [], list(messages)
    return list(first["content"]), rest


def _after_a_line(content: list[Any]) -> list[Any]:
    if not content:
        return []
    return [{"type": "text", "text": "\n\n"}, *content]
