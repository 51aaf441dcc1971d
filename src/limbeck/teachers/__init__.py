"""Teachers, one backend a file; this module holds what they share.

A teacher is anything that answers samples: the large model that labels, and, in evaluation, every
model that is compared with it. A backend is a `Teacher`, which is its own configuration and can be
looked at offline; `open` loads or connects it and gives an `OpenTeacher`, which answers.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from limbeck.errors import TeacherError
from limbeck.progress import say
from limbeck.recipe.component import Component
from limbeck.recipe.few_shot import FewShot
from limbeck.records import AlignedSignal, Dense, Features, ModelShape, Sample, Tap

if TYPE_CHECKING:
    from torch import Tensor

Capability = Literal[
    "score", "whole_distributions", "hidden_states", "log_probabilities", "inner_states"
]
"""What a teacher can give beside text.

    score                 distributions along an answer that it is given
    whole_distributions   of every token of the vocabulary, not of the likeliest only
    hidden_states         what its head reads, and its head
    log_probabilities     those of the likeliest tokens, with the answers that it writes
    inner_states          what its layers make, for losses on them
"""


@dataclass(frozen=True)
class ScoredAnswer:
    """A teacher's distributions along one answer, in its own tokens, end of turn included.

    Row n of `signal` predicts `answer_ids[n]`; both are columns of the tokenizer's real tokens, and
    padding rows of the head are dropped. `hidden_NH` is what the head made them of, where the
    teacher shows it.
    """

    answer_ids: tuple[int, ...]
    signal: AlignedSignal
    hidden_NH: Tensor | None = None

    @property
    def logits_NV(self) -> Tensor:
        """The whole distributions, as raw logits; only of a teacher that gives them."""
        assert isinstance(self.signal, Dense), "asked of a teacher without whole distributions"
        return self.signal.logits_NV

    @property
    def mean_log_probability(self) -> float:
        """Of the answer's tokens, at T = 1; only of a teacher that gives whole distributions."""
        import torch

        logp_NV = self.logits_NV.log_softmax(-1)
        ids_N1 = torch.tensor(self.answer_ids, device=logp_NV.device)[:, None]
        return float(logp_NV.gather(-1, ids_N1).mean())


@dataclass(frozen=True)
class Answer:
    """What a teacher said: text without special tokens, its token count with the end token.

    `failure` says why there is no answer to one sample (a request refused for its content, say);
    what would fail for all samples is raised instead. `scored` holds distributions that came with
    the answer, of teachers that can "log_probabilities". `teacher` says which one of several wrote
    it.
    """

    text: str
    tokens: int
    finished: bool
    failure: str | None = None
    mean_log_probability: float | None = None
    scored: ScoredAnswer | None = None
    teacher: str | None = None


@dataclass(frozen=True)
class Request:
    """One answer to one sample; `number` tells several answers to the same sample apart."""

    sample: Sample
    number: int = 0


@dataclass(frozen=True)
class Decoding:
    """How answers are written.

    Attributes:
        max_new_tokens: limit of an answer, with its end token.
        temperature: 0 is greedy.
        seed: of sampled answers.
        top_log_probabilities: how many tokens' log-probabilities are to come with each answer
            token; only of teachers that can "log_probabilities".
        blank_images: replace every picture by grey of the same size.
    """

    max_new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    top_log_probabilities: int = 0
    blank_images: bool = False


Answered = tuple[Sequence[Request], list[Answer]]
"""Requests, and an answer to each."""

SAMPLES_BLANKED = 4
"""How many samples are answered with blank pictures before a teacher is called blind."""


class OpenTeacher:
    """A teacher that is loaded (or connected) and answers batches; base of every backend's own.

    Attributes:
        batched: whether the samples of a batch share padded shapes, so that a batch of which a part
            is lost is asked again as a whole; else each is asked by itself.
    """

    batched: ClassVar[bool] = True

    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[Answer]:
        """Answer each sample."""
        raise NotImplementedError

    def stream(
        self, batches: Iterable[Sequence[Request]], decoding: Decoding, *, workers: int = 0
    ) -> Generator[Answered]:
        """Answer batch after batch; groups come when they are finished, in any order.

        Args:
            batches: what is asked, in the order of asking.
            decoding: how.
            workers: processes that prepare pictures ahead of a model in this process.
        """
        del workers
        for batch in batches:
            yield batch, self.generate([request.sample for request in batch], decoding)

    def left_of(self, batches: Sequence[list[Sample]], done: Container[str]) -> list[list[Sample]]:
        """What has still to be asked of batches, where samples (by id) are done already."""
        left = [[sample for sample in batch if sample.id not in done] for batch in batches]
        pairs = zip(batches, left, strict=True)
        return [whole if self.batched else rest for whole, rest in pairs if rest]

    def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
        """The distributions along given answers.

        Raises:
            TeacherError: the teacher cannot "score".
        """
        raise TeacherError("this teacher cannot score an answer that it is given", where="teacher")

    def share_prefixes(self, samples: Sequence[Sample]) -> str | None:
        """From now on, compute once what neighbours on the same pictures have in common.

        Args:
            samples: of this job; what is shared must be exact, and it is proved on some of them.

        Returns:
            Why this is not done, and nothing changed; None where it is.
        """
        del samples
        return "what a server computes once is its own affair"

    def expected_length(self, sample: Sample) -> int:
        """A cheap estimate of the sample's cost, to batch like with like."""
        from limbeck.data.tokens import expected_prompt_tokens

        return expected_prompt_tokens(sample)

    def check_image_sensitivity(self, samples: Sequence[Sample]) -> None:
        """See that pictures reach the teacher: blanked, at least one answer has to change.

        Args:
            samples: all with pictures; a few are asked about, one after the other.

        Raises:
            TeacherError: no answer changed.
        """
        asked = samples[:SAMPLES_BLANKED]
        for sample in asked:
            seen, blank = (
                self.generate([sample], Decoding(max_new_tokens=32, blank_images=blank))[0]
                for blank in (False, True)
            )
            if seen != blank:
                return
        raise TeacherError(
            "the pictures do not reach the teacher: blanked, they change none of"
            f" {len(asked)} answers",
            where=", ".join(sample.id for sample in asked),
            mend="check that the server's model takes pictures and that its chat template has a"
            " place for them",
        )

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer, so that training can prove that the student's is the same."""
        raise NotImplementedError

    def visual_tokens(self, sample: Sample) -> int | None:
        """How many tokens the sample's pictures become; None where the teacher does not say."""
        raise NotImplementedError

    def linear_head(self) -> Tensor:
        """The weights [V, H] with which logits_NV = hidden_NH @ weights.T.

        Raises:
            TeacherError: the teacher does not show its head, or it does more than that.
        """
        raise TeacherError("this teacher does not show its hidden states", where="label.signal")

    def features(
        self, samples: Sequence[Sample], answers: Sequence[str], taps: Sequence[Tap]
    ) -> Features:
        """Inner states along given answers.

        Raises:
            TeacherError: the teacher does not show "inner_states".
        """
        raise TeacherError("this teacher does not show its inner states", where="losses")

    @property
    def shape(self) -> ModelShape:
        """Layers and widths, of a teacher that shows "inner_states"."""
        raise NotImplementedError

    @property
    def vocabulary_rows(self) -> int | None:
        """Rows of the head, padding included; None where the teacher has no tokenizer here."""
        raise NotImplementedError

    @property
    def answer_frame(self) -> tuple[str, list[int]]:
        """White space before an answer and the token ids that end it, as the template has them."""
        raise NotImplementedError

    def describe_memory(self) -> str:
        """What the open teacher's weights take, and where; to be shown before training."""
        raise NotImplementedError

    def usage(self) -> dict[str, float]:
        """What this job has used of a served teacher, earlier runs included.

        For example `requests`, `retries`, `prompt_tokens`, `answer_tokens`, `cost`.
        """
        return {}

    def close(self) -> None:
        """Give back what the teacher holds beside memory: connections, processes."""


class Teacher(Component):
    """Base of every teacher backend.

    What a teacher is told beside the sample is its own and the student never sees it; a backend
    does not look at these fields, `limbeck.teachers.specialised` rewrites the samples for it.
    """

    selector: ClassVar[str] = "backend"
    is_served: ClassVar[bool] = False
    """Whether it runs on a server, of whose size and speed nothing is known."""

    system_prompt: str | None = Field(
        default=None, min_length=1, description="goes before the sample's own, if it has one"
    )
    few_shot: FewShot | None = Field(
        default=None, description="gold examples that are shown before the question"
    )

    @property
    def word(self) -> str:
        """By which a recipe chooses it."""
        return str(getattr(self, self.selector))

    def capabilities(self) -> frozenset[Capability]:
        """What it can give beside text; known without loading or connecting."""
        raise NotImplementedError

    def open(
        self, data: Path, *, device: str, responses: Path | None = None, job: str = ""
    ) -> OpenTeacher:
        """Load or connect.

        Args:
            data: the data stage's folder, which holds the images.
            device: where a model in this process runs.
            responses: folder in which a served teacher keeps the answers that were paid for, and
                finds those of earlier runs.
            job: who asks; a cost cap counts what one job spends.

        Raises:
            TeacherError: it cannot be reached or loaded.
        """
        raise NotImplementedError

    def identity(self) -> dict[str, Any]:
        """What can change its answers, for fingerprints; offline and without torch."""
        raise NotImplementedError

    def members(self) -> tuple[Teacher, ...]:
        """The teachers that it is made of; none where it is one itself."""
        return ()

    def with_members(self, members: Sequence[Teacher]) -> Teacher:
        """The same with others in the place of its members."""
        assert not members
        return self

    def routing(self) -> dict[str, Any]:
        """Which of its members answers what, as plain values."""
        return {}

    def prompting_fields(self) -> dict[str, Any]:
        """What it is told beside the sample, as plain values; empty where nothing is."""
        fields = self.model_dump(mode="json", include={"system_prompt", "few_shot"})
        return {name: value for name, value in fields.items() if value is not None}


def share_prefixes(session: OpenTeacher, samples: Sequence[Sample]) -> str | None:
    """Ask for it, and say if and why it is not done; returns the reason."""
    reason = session.share_prefixes(samples)
    if reason is not None:
        say(f"  every prompt is computed from its beginning: {reason}")
    return reason


def batches_by_length(
    session: OpenTeacher, samples: Sequence[Sample], size: int, *, together: bool = False
) -> Iterator[list[Sample]]:
    """Fixed batches of samples of similar length, the longest first: memory peaks early.

    The batches depend on the samples alone, so a run that goes on after a kill computes the same
    padded shapes and hence the same numbers.

    Args:
        session: who estimates lengths.
        samples: what is to be answered.
        size: of a batch, at most.
        together: samples on the same pictures are neighbours in one batch, if it holds them.
    """
    from limbeck.data.packing import pictures_of, whole_groups

    lengths = [session.expected_length(sample) for sample in samples]

    def kind_of(index: int) -> Hashable:
        return pictures_of(samples[index]) if together else index

    for batch in whole_groups(range(len(samples)), kind_of, lengths, size):
        yield [samples[i] for i in batch]
