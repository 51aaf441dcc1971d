"""Teachers, one backend a file; this module holds what they share.

A teacher is anything that answers samples: the large model that labels, and, in evaluation, every
model that is compared with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from limbeck.recipe.component import Component
from limbeck.records import Sample

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Answer:
    """What a teacher said: text without special tokens, its token count with the end token."""

    text: str
    tokens: int
    finished: bool


@dataclass(frozen=True)
class ScoredAnswer:
    """A teacher's raw logits on the tokens of a given answer (its own tokenizer, end included).

    `logits_NV[n]` predicts `answer_ids[n]`; both are columns of the tokenizer's real tokens, and
    padding rows of the head are dropped. `hidden_NH` is what the head made them of, where the
    teacher shows it.
    """

    answer_ids: tuple[int, ...]
    logits_NV: Tensor
    hidden_NH: Tensor | None = None


class OpenTeacher(Protocol):
    """A teacher that is loaded (or connected) and answers batches."""

    def generate(
        self, samples: Sequence[Sample], *, max_new_tokens: int, temperature: float, seed: int
    ) -> list[Answer]:
        """Answer each sample; temperature 0 is greedy."""
        ...

    def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
        """The distributions along given answers."""
        ...

    def expected_length(self, sample: Sample) -> int:
        """A cheap estimate of the sample's cost, to batch like with like."""
        ...

    def check_image_sensitivity(self, sample: Sample, answer: str) -> None:
        """Raise TeacherError when blanking the sample's images does not move the logits."""
        ...

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer, so that training can prove that the student's is the same."""
        ...

    def visual_tokens(self, sample: Sample) -> int:
        """How many tokens the sample's pictures become under the teacher's pixel budget."""
        ...

    def linear_head(self) -> Tensor:
        """The weights [V, H] with which logits_NV = hidden_NH @ weights.T.

        Raises:
            TeacherError: the teacher does not show its head, or it does more than that.
        """
        ...

    @property
    def vocabulary_rows(self) -> int:
        """Rows of the head, padding included."""
        ...

    @property
    def answer_frame(self) -> tuple[str, list[int]]:
        """White space before an answer and the token ids that end it, as the template has them."""
        ...

    def describe_memory(self) -> str:
        """What the open teacher's weights take, and where; to be shown before training."""
        ...


class Teacher(Component):
    """Base of every teacher backend."""

    selector: ClassVar[str] = "backend"

    def open(self, data: Path, *, device: str) -> OpenTeacher:
        """Load or connect; `data` is the data stage's folder, which holds the images.

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
