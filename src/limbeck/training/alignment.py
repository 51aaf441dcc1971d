"""A teacher with another tokenizer: which of its tokens go with which of the student's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from limbeck.data.spans import common_spans, cut_answer
from limbeck.errors import DataError
from limbeck.losses import Loss
from limbeck.signals import SignalSource
from limbeck.signals.spans import Alignment, SpanSignals
from limbeck.training.batches import Example

if TYPE_CHECKING:
    from limbeck.data.tokens import Encoder


def aligned_signal(
    source: SignalSource,
    examples: Sequence[Example],
    losses: Sequence[Loss],
    *,
    encoder: Encoder,
    teacher_tokenizer: Any,
    about_teacher: Mapping[str, Any],
) -> tuple[SpanSignals, list[int]]:
    """Signals on the teacher's own tokens with spans, and each example's number of spans.

    Args:
        source: the teacher's signals, asked with its own tokens.
        examples: what is trained on.
        losses: which of the targets have signals.
        encoder: the student's.
        teacher_tokenizer: as the label stage saved it.
        about_teacher: what else the label stage noted: rows of the head, frame of an answer.

    Raises:
        UsageError: a tokenizer cannot say where in the text its tokens are.
        DataError: the student's tokens with offsets are not those that it trains on.
    """
    import torch

    from limbeck.models.vocabulary import shared_vocabulary

    rows = about_teacher["head_rows"]
    vocabulary = shared_vocabulary(teacher_tokenizer, teacher_tokenizer, rows, rows)
    targets = {loss.target for loss in losses if loss.needs_signal}
    alignments: dict[str, Alignment] = {}
    counts: list[int] = []
    for example in examples:
        text = example.answer
        own = cut_answer(
            encoder.tokenizer, text, prefix=encoder.answer_prefix, end_ids=encoder.end_ids
        )
        if list(own.ids) != encoder.answer_tokens(text):
            raise DataError(
                "the student's tokenizer cuts the answer differently when asked for offsets",
                where=f"sample {example.sample.id}",
            )
        if example.target not in targets:
            counts.append(len(own.ids))
            continue
        theirs = cut_answer(
            teacher_tokenizer,
            text,
            prefix=about_teacher["answer_prefix"],
            end_ids=about_teacher["end_ids"],
        )
        answer = vocabulary.columns_of(torch.tensor(theirs.ids)).tolist()
        teacher_spans, student_spans, spans = common_spans(theirs, own)
        alignments[example.sample.id] = Alignment(
            tuple(answer), tuple(teacher_spans), tuple(student_spans), spans
        )
        counts.append(spans)
    return SpanSignals(source, alignments, vocabulary.size), counts
