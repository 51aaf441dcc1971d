"""Which tokens teacher and student share, decided by the identity of their tokenizers.

Heads are padded to sizes that have nothing to do with the tokenizer (Qwen2-VL: 152,064 rows in the
7B, 151,936 in the 2B, fewer real tokens than either). Padding rows are dropped on both sides
before the softmax: they would take mass that no token can have.

A column is a token's place in the shared vocabulary. Where the ids run from 0 without a gap, which
is the usual case, it is the token's id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from limbeck.errors import UsageError
from limbeck.records import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

OTHER_TOKENIZER = (
    "token by token, distributions compare only under one tokenizer: use kind: cross_tokenizer, "
    "choose a student of the teacher's family, or train on the teacher's text alone (cross_entropy)"
)
PROBES = (
    "The quick brown fox jumps over 13 lazy dogs; it's 3.14159 past 10:07 on 2024-02-29.",
    "  leading,\ttabbed\n\n and  double  spaced \n",
    "déjà vu, naïve façade, Straße, ǅ ﬁ, 東京の画面, Привет, مرحبا, हिन्दी, 👩‍👩‍👧 €5 ½",
    'def f(x):\n    return {"a": [x ** 2, None]}  # <b>https://example.org/?q=1&r=%20</b>',
)
"""Texts that tell tokenizers apart whose vocabularies are equal and whose rules are not."""

SAMPLED_TOKENS = 2000
"""How many of the vocabulary's own tokens are strung together for more such texts, 50 in each."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that both models know by the same id.

    Attributes:
        size: how many.
        columns: their ids in increasing order where these have gaps; None where they are
            `first` to `first + size - 1`.
        first: the lowest id.
        teacher_rows: rows of the teacher's head.
        student_rows: rows of the student's head.
    """

    size: int
    columns: tuple[int, ...] | None
    first: int
    teacher_rows: int
    student_rows: int

    def of(self, logits: Tensor) -> Tensor:
        """The shared columns of a head's output: [..., R] -> [..., size].

        Raises:
            UsageError: R is neither model's number of rows.
        """
        if logits.shape[-1] not in (self.teacher_rows, self.student_rows):
            raise UsageError(
                f"logits have {logits.shape[-1]} columns, the teacher's head {self.teacher_rows} "
                f"rows and the student's {self.student_rows}"
            )
        if self.columns is None:
            return logits[..., self.first : self.first + self.size]
        return logits.index_select(-1, self._index.to(logits.device))

    def columns_of(self, token_ids: Tensor) -> Tensor:
        """Where labels are among the shared columns; -100 stays -100.

        Raises:
            UsageError: a token is not shared.
        """
        import torch

        scored = token_ids != IGNORED
        if self.columns is None:
            found = token_ids - self.first
            known = (found >= 0) & (found < self.size)
        else:
            index = self._index.to(token_ids.device)
            found = torch.searchsorted(index, token_ids.contiguous()).clamp(max=self.size - 1)
            known = index[found] == token_ids
        if not bool((known | ~scored).all()):
            token = int(token_ids[scored & ~known][0])
            raise UsageError(f"token id {token} is not in the shared vocabulary")
        return torch.where(scored, found, IGNORED)

    def column_of(self, token_id: int) -> int | None:
        """Where a token is among the shared columns; None where it is not shared."""
        if self.columns is None:
            found = token_id - self.first
            return found if 0 <= found < self.size else None
        return self._column_of.get(token_id)

    def describe(self) -> str:
        """One line to print before training."""
        return (
            f"{self.size:,} shared tokens; teacher has {self.teacher_rows:,} rows, student "
            f"{self.student_rows:,}; {self.teacher_rows - self.size:,} and "
            f"{self.student_rows - self.size:,} padding rows dropped"
        )

    @cached_property
    def _column_of(self) -> dict[int, int]:
        return {token: column for column, token in enumerate(self.columns or ())}

    @cached_property
    def _index(self) -> Tensor:
        import torch

        return torch.tensor(self.columns, dtype=torch.long)


def shared_vocabulary(
    teacher_tokenizer: Any, student_tokenizer: Any, teacher_rows: int, student_rows: int
) -> Vocabulary:
    """Prove that both tokenizers are one, and say which rows of the two heads are its tokens.

    Args:
        teacher_tokenizer: a transformers tokenizer.
        student_tokenizer: a transformers tokenizer.
        teacher_rows: rows of the teacher's language head.
        student_rows: rows of the student's language head.

    Raises:
        UsageError: a token (added ones too) has another id or is missing on one side, the same
            text is split differently, or a head lacks rows for tokens of its tokenizer.
    """
    teacher, student = teacher_tokenizer.get_vocab(), student_tokenizer.get_vocab()
    if teacher != student:
        raise UsageError(_first_difference(teacher, student), mend=OTHER_TOKENIZER)
    ids = sorted(set(teacher.values()))
    if not ids:
        raise UsageError("the tokenizers hold no tokens")
    for side, rows in (("teacher", teacher_rows), ("student", student_rows)):
        if ids[-1] >= rows:
            last = min(token for token, number in teacher.items() if number == ids[-1])
            raise UsageError(
                f"the {side}'s head has {rows:,} rows, but its tokenizer knows {last!r} as id "
                f"{ids[-1]:,}",
                mend="use the tokenizer that belongs to the model, or resize its embeddings",
            )
    _require_same_splitting(teacher_tokenizer, student_tokenizer, ids)
    contiguous = ids[-1] - ids[0] + 1 == len(ids)
    return Vocabulary(
        size=len(ids),
        columns=None if contiguous else tuple(ids),
        first=ids[0],
        teacher_rows=teacher_rows,
        student_rows=student_rows,
    )


def _first_difference(teacher: dict[str, int], student: dict[str, int]) -> str:
    """The difference with the lowest id, in words."""
    tokens = {t for t in {*teacher, *student} if teacher.get(t) != student.get(t)}
    lowest = [min(ids[t] for ids in (teacher, student) if t in ids) for t in tokens]
    token = min(zip(lowest, tokens, strict=True))[1]
    said = [
        f"id {ids[token]:,} for the {side}" if token in ids else f"unknown to the {side}"
        for side, ids in (("teacher", teacher), ("student", student))
    ]
    count = f"{len(tokens):,} tokens differ" if len(tokens) > 1 else "one token differs"
    return f"the tokenizers are not the same: token {token!r} is {' and '.join(said)} ({count})"


def _require_same_splitting(teacher: Any, student: Any, ids: Sequence[int]) -> None:
    sampled = list(ids[:: max(1, len(ids) // SAMPLED_TOKENS)])
    own = (
        teacher.decode(sampled[start : start + 50], skip_special_tokens=True)
        for start in range(0, len(sampled), 50)
    )
    for text in (*PROBES, *own):
        ours, theirs = (t.encode(text, add_special_tokens=False) for t in (teacher, student))
        if ours == theirs:
            continue
        pairs = enumerate(zip(ours, theirs, strict=False))
        at = next((i for i, (a, b) in pairs if a != b), min(len(ours), len(theirs)))
        raise UsageError(
            "the tokenizers have the same tokens but split text differently: the teacher's next "
            f"tokens are {teacher.convert_ids_to_tokens(ours[at : at + 3])}, the student's "
            f"{student.convert_ids_to_tokens(theirs[at : at + 3])}",
            mend=OTHER_TOKENIZER,
        )
