"""Signals of a teacher with another tokenizer: its own tokens, spans numbered over the batch."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from limbeck.errors import DataError
from limbeck.records import Dense
from limbeck.signals.spans import Alignment, SpanSignals


class Source:
    """Gives each row its own token as its only logit, and notes what it was asked."""

    def signal(self, sample_ids: Sequence[str], answers: Sequence[Sequence[int]]) -> Dense:
        self.asked = (list(sample_ids), [list(answer) for answer in answers])
        return Dense(torch.tensor([[float(token)] for answer in answers for token in answer]))


ALIGNMENTS = {
    "a": Alignment((7, 8, 9), (0, 0, 1), (0, 1), 2),
    "b": Alignment((5, 6), (0, 1), (0, 0, 0, 1), 2),
}


def test_asks_for_the_teachers_tokens_and_numbers_spans_over_the_batch() -> None:
    source = Source()
    found = SpanSignals(source, ALIGNMENTS, 40).signal(["b", "a"], [[1, 2, 3, 4], [1, 2]])
    assert source.asked == (["b", "a"], [[5, 6], [7, 8, 9]])
    assert isinstance(found.signal, Dense)
    assert found.signal.logits_NV[:, 0].tolist() == [5, 6, 7, 8, 9]
    assert found.answer_ids_M.tolist() == [5, 6, 7, 8, 9]
    assert found.teacher_spans_M.tolist() == [0, 1, 2, 2, 3]
    assert found.student_spans_N.tolist() == [0, 0, 0, 1, 2, 3]
    assert (found.spans, found.teacher_tokens) == (4, 40)


def test_an_answer_of_another_length_is_refused() -> None:
    with pytest.raises(DataError, match=r"sample a.* spans of 2 tokens for an answer of 3"):
        SpanSignals(Source(), ALIGNMENTS, 40).signal(["a"], [[1, 2, 3]])
