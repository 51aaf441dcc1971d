"""Spans of text on which two tokenizers agree, by byte offsets.

Each tokenizer cuts an answer's UTF-8 bytes at offsets of its own. A span lies between two
neighbouring offsets at which both cut, so it holds whole tokens of either side; the end of turn,
which is no text, is a span of its own after the last byte.

Where the bytes of the tokens, put together, are the answer's (byte-level BPE, SentencePiece pieces
with byte fallback, whole words), the offsets are exact, inside a character too. Where they are not
(unknown tokens, a normaliser that changes the text) the tokenizer's character offsets are taken,
and tokens that share a character stay in one span.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

from limbeck.errors import UsageError

_ONE_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True)
class Cut:
    """An answer as one tokenizer cuts it.

    `ends[i]` is the byte of the answer before which token i ends, never decreasing; the end of turn
    ends one byte behind the text.
    """

    ids: tuple[int, ...]
    ends: tuple[int, ...]


def cut_answer(tokenizer: Any, answer: str, *, prefix: str = "", end_ids: Sequence[int]) -> Cut:
    """Cut an answer as `limbeck.data.tokens.Encoder.answer_tokens` does, with byte offsets.

    Args:
        tokenizer: a transformers tokenizer.
        answer: the text.
        prefix: white space that the model's chat template has before an answer.
        end_ids: the end of turn.

    Raises:
        UsageError: the tokenizer cannot say where in the text its tokens are.
    """
    if not tokenizer.is_fast:
        raise UsageError(
            f"{type(tokenizer).__name__} does not say where in a text its tokens are",
            mend="use a model whose folder has tokenizer.json",
        )
    text = prefix + answer
    encoded = tokenizer(
        text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
    )
    ids: list[int] = encoded["input_ids"]
    size = len(_utf8(text))
    ends = _exact_ends(tokenizer.convert_ids_to_tokens(ids), _utf8(text))
    if ends is None:
        ends = _ends_by_characters(encoded["offset_mapping"], text)
    if ends:
        ends[-1] = size  # what a normaliser strips at the end belongs to the last token
    before = len(_utf8(prefix))
    own = [max(0, end - before) for end in ends]
    return Cut((*ids, *end_ids), (*own, *(size - before + 1 for _ in end_ids)))


def common_spans(one: Cut, other: Cut) -> tuple[list[int], list[int], int]:
    """The span of each token of two cuts of one answer, and how many spans there are."""
    shared = sorted(({*one.ends} & {*other.ends}) - {0})
    assert shared, "both cuts end with the end of turn"
    first, second = ([bisect_left(shared, end) for end in cut.ends] for cut in (one, other))
    return first, second, len(shared)


def _exact_ends(tokens: Sequence[str], text: bytes) -> list[int] | None:
    """Ends from the tokens' own bytes, if these are the text's; a space may be put before it."""
    for read in (_byte_level, _sentence_piece, _utf8):
        try:
            pieces = [read(token) for token in tokens]
        except KeyError:  # not a token of this kind
            continue
        joined = b"".join(pieces)
        added = len(joined) - len(text)
        if joined == text or (added == 1 and joined == b" " + text):
            return [max(0, end - added) for end in accumulate(map(len, pieces))]
    return None


def _ends_by_characters(offsets: Sequence[tuple[int, int]], text: str) -> list[int]:
    """Ends from character offsets.

    What lies between two tokens and is white space belongs to the second, as in most vocabularies;
    else to the first: an accent that a normaliser joins with its letter is left uncovered.
    """
    bytes_before = [0, *accumulate(len(_utf8(character)) for character in text)]
    ends: list[int] = []
    start_after = end_after = len(text)
    for start, end in reversed(offsets):
        if start_after < end:  # both are parts of one character
            ends.append(end_after)
        else:
            while end < start_after and not text[end].isspace():
                end += 1
            ends.append(end)
        start_after, end_after = start, ends[-1]
    return [bytes_before[end] for end in accumulate(reversed(ends), max)]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _sentence_piece(token: str) -> bytes:
    if (one := _ONE_BYTE.fullmatch(token)) is not None:
        return bytes([int(one[1], 16)])
    return _utf8(token.replace("▁", " "))


def _byte_level(token: str) -> bytes:
    alphabet = _byte_alphabet()
    return bytes(alphabet[character] for character in token)


@cache
def _byte_alphabet() -> dict[str, int]:
    """Byte-level BPE writes bytes that do not print as the characters from 256 on, in order."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}
