"""Teachers, one backend a file; this module holds what they share.

A teacher is anything that answers samples: the large model that labels, and, in evaluation, every
model that is compared with it. A backend is a `Teacher`, which is its own configuration and can be
looked at offline; `open` loads or connects it and gives an `OpenTeacher`, which answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from limbeck.errors import TeacherError
from limbeck.recipe.component import Component
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


@dataclass(frozen=True)
class Answer:
    """What a teacher said: text without special tokens, its token count with the end token.

    `failure` says why there is no answer to one sample (a request refused for its content, say);
    what would fail for all samples is raised instead. `scored` holds distributions that came with
    the answer, of teachers that can "log_probabilities".
    """

    text: str
    tokens: int
    finished: bool
    failure: str | None = None
    mean_log_probability: float | None = None
    scored: ScoredAnswer | None = None


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
    """A teacher that is loaded (or connected) and answers batches; base of every backend's own."""

    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[Answer]:
        """Answer each sample."""
        raise NotImplementedError

    def stream(
        self, batches: Iterable[Sequence[Request]], decoding: Decoding, *, workers: int = 0
    ) -> Iterator[Answered]:
        """Answer batch after batch; groups come when they are finished, in any order.

        Args:
            batches: what is asked, in the order of asking.
            decoding: how.
            workers: processes that prepare pictures ahead of a model in this process.
        """
        del workers
        for batch in batches:
            yield batch, self.generate([request.sample for request in batch], decoding)

    def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
        """The distributions along given answers.

        Raises:
            TeacherError: the teacher cannot "score".
        """
        raise TeacherError("this teacher cannot score an answer that it is given", where="teacher")

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
    """Base of every teacher backend."""

    selector: ClassVar[str] = "backend"

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


def batches_by_length(
    session: OpenTeacher, samples: Sequence[Sample], size: int
) -> Iterator[list[Sample]]:
    """Fixed batches of samples of similar length, the longest first: memory peaks early.

    The batches depend on the samples alone, so a run that goes on after a kill computes the same
    padded shapes and hence the same numbers.
    """
    lengths = [session.expected_length(sample) for sample in samples]
    order = sorted(range(len(samples)), key=lambda i: (-lengths[i], i))
    for start in range(0, len(order), size):
        yield [samples[i] for i in order[start : start + size]]
