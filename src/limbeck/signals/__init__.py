"""The teacher's distributions, from a cache on disk or from a live model, behind one seam.

The training loop asks a `SignalSource` and never learns which kind it has:

    signal = source.signal(sample_ids, answers)   # answers: the supervised tokens of each sample
    term = loss(StudentView(labels_N, hidden_NH, head), signal)

Rows come in the order of the micro-batch: all positions of the first answer, then of the second.
That is the row-major order of `targets_BL != IGNORED`, in which the student's rows are selected.
They stay on the device where they were made; the loop moves them.

Everything on this side of the vocabulary alignment (answers, labels, ids of a `TopK`) is a column
of the shared vocabulary: `Vocabulary.columns_of(token_ids)`. Where the shared ids run from 0
without a gap, which is the usual case, a column is the token's id.

    top_k.py             logits -> TopK
    from_server.py       what a server tells of its likeliest tokens -> TopK
    live.py              a SignalSource that runs the teacher
    key.py               what a cache is made of, and which part of it differs
    shard.py             one file of a cache: layout, checksum
    coding.py            what a kind of cached signal supplies
    writer.py            appends samples to a cache; survives a kill
    cache.py             a finished cache: checks, random access by sample id
    top_k_coding.py      the top-k cache: layout, tail mass, entropy, agreement with the hard label
    elias_fano.py        its ids
    probability_code.py  its log-probabilities
    reader.py            a SignalSource that reads it
    hidden_coding.py     the cache of hidden states: layout, verified error
    head.py              the teacher's head beside it
    hidden.py            a SignalSource that reads it
    inspection.py        what a cache holds, for people
    joined.py            a SignalSource that asks several caches
    spans.py             a SignalSource for a teacher with another tokenizer
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from limbeck.records import TeacherSignal


class SignalSource(Protocol):
    """Where teacher distributions come from."""

    def signal(self, sample_ids: Sequence[str], answers: Sequence[Sequence[int]]) -> TeacherSignal:
        """The teacher's distributions at every position of these answers, concatenated.

        Args:
            sample_ids: which samples.
            answers: for each, its supervised tokens as columns of the shared vocabulary, with the
                end token.

        Raises:
            DataError: a sample is not held, or was scored on another answer.
        """
        ...
