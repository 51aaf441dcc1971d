"""The signals of a teacher with another tokenizer, with the spans of text that it shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from limbeck.errors import DataError
from limbeck.records import Unaligned
from limbeck.signals import SignalSource


@dataclass(frozen=True)
class Alignment:
    """One answer as both models cut it (`limbeck.data.spans`).

    `teacher_answer` are the teacher's own tokens as columns of its vocabulary; the spans are those
    of its rows and of the student's.
    """

    teacher_answer: tuple[int, ...]
    teacher_spans: tuple[int, ...]
    student_spans: tuple[int, ...]
    spans: int


class SpanSignals:
    """A `SignalSource` that asks another one with the teacher's own tokens.

    Args:
        source: the cache, or a live teacher.
        alignments: of every sample's labelled answer.
        teacher_tokens: size of the teacher's vocabulary.
    """

    def __init__(
        self, source: SignalSource, alignments: Mapping[str, Alignment], teacher_tokens: int
    ) -> None:
        self._source, self._alignments = source, alignments
        self._teacher_tokens = teacher_tokens

    def signal(self, sample_ids: Sequence[str], answers: Sequence[Sequence[int]]) -> Unaligned:
        """The teacher's distributions on its own rows, with the spans of both models' rows.

        Raises:
            DataError: a sample is not held, or was scored on another answer.
        """
        import torch

        found = [self._alignments[sample_id] for sample_id in sample_ids]
        for sample_id, one, answer in zip(sample_ids, found, answers, strict=True):
            if len(one.student_spans) != len(answer):
                raise DataError(
                    f"spans of {len(one.student_spans)} tokens for an answer of {len(answer)}",
                    where=f"sample {sample_id}",
                )
        teacher_spans: list[int] = []
        student_spans: list[int] = []
        spans = 0
        for one in found:
            teacher_spans += [spans + number for number in one.teacher_spans]
            student_spans += [spans + number for number in one.student_spans]
            spans += one.spans
        inner = self._source.signal(sample_ids, [one.teacher_answer for one in found])
        assert not isinstance(inner, Unaligned)
        return Unaligned(
            inner,
            torch.tensor([token for one in found for token in one.teacher_answer]),
            torch.tensor(teacher_spans),
            torch.tensor(student_spans),
            spans,
            self._teacher_tokens,
        )
