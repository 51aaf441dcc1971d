"""How much of an answer repeats itself: what a model that has lost its way writes.

Three ways to lose it are measured, each as a share of the answer: word 4-grams that stood earlier,
lines that stood earlier, and the longest stretch in which one short piece comes over and over
("aaaaaaa", "the the the", "哈哈哈哈哈哈").
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

from limbeck.labelling.words import words_of

GRAM = 4
"""Words of an n-gram; of characters, in scripts without spaces, twice as many."""

MIN_LINES = 4
"""An answer with fewer lines has none that count as repeated."""

MAX_PIECE_CHARACTERS = 60
MAX_PIECE_WORDS = 12
TIMES_OF_DIGITS = 20
MAX_CHARACTERS = 20_000
"""Of an answer that are looked at."""


def repetition(text: str) -> float:
    """The largest of the three shares, 0 to 1."""
    text = text.strip()[:MAX_CHARACTERS]
    return max(repeated_grams(text), repeated_lines(text), longest_stretch(text))


def repeated_grams(text: str) -> float:
    """Share of the word n-grams that stood earlier in the text; 0 for texts without any."""
    words = words_of(text)
    n = GRAM if len(words) < 2 * len(text.split()) else 2 * GRAM
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def repeated_lines(text: str) -> float:
    """Share of the lines that stood earlier in the text; 0 below `MIN_LINES` lines."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return 1 - len(set(lines)) / len(lines) if len(lines) >= MIN_LINES else 0.0


def longest_stretch(text: str) -> float:
    """Share of the text in which one piece follows itself often enough to be no accident.

    That is three times for words, five for a character, four for several characters; and
    `TIMES_OF_DIGITS` for digits, since numbers such as 1000000 are no stammer.
    """
    words = text.split()
    found = [
        length / len(words)
        for start, period, length in _stretches(words, MAX_PIECE_WORDS)
        if length >= _times("".join(words[start : start + period]), 3) * period
    ]
    found += [
        length / len(text)
        for start, period, length in _stretches(text, MAX_PIECE_CHARACTERS)
        if length >= _times(text[start : start + period], 5 if period == 1 else 4) * period
    ]
    return max(found, default=0.0)


def _times(piece: str, otherwise: int) -> int:
    return TIMES_OF_DIGITS if piece.isdigit() else otherwise


def _stretches(items: Sequence[Hashable], longest_piece: int) -> list[tuple[int, int, int]]:
    """For each length of a piece the longest stretch that repeats one: start, piece, stretch."""
    codes: dict[Hashable, int] = {}
    code_N = np.array([codes.setdefault(item, len(codes)) for item in items], np.int64)
    found: list[tuple[int, int, int]] = []
    for period in range(1, min(longest_piece, len(code_N) // 3) + 1):
        other_N = np.flatnonzero(code_N[period:] != code_N[:-period])
        ends_N = np.concatenate(([-1], other_N, [len(code_N) - period]))
        runs_N = np.diff(ends_N) - 1
        longest = int(runs_N.argmax())
        if runs_N[longest]:
            found.append((int(ends_N[longest]) + 1, period, int(runs_N[longest]) + period))
    return found
