"""The caption tokenizer against recorded output of the original (Java) on hard cases.

Each line of recorded_tokens.jsonl is a text and its tokens, punctuation already dropped.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck.metrics.ptb_tokenizer import tokenize, words

RECORDED = [
    json.loads(line)
    for line in (Path(__file__).parent / "recorded_tokens.jsonl").read_text().splitlines()
]


@pytest.mark.parametrize(("text", "tokens"), RECORDED)
def test_tokens_equal_those_of_the_original(text: str, tokens: list[str]) -> None:
    assert list(tokenize(text)) == tokens


def test_words_split_what_the_original_joined_with_a_no_break_space() -> None:
    assert tokenize("22 3/4 St") == ("22\xa03/4", "st")
    assert words("22 3/4 St") == ("22", "3/4", "st")


def test_line_breaks_and_tabs_separate_tokens_as_blanks_do() -> None:
    assert tokenize("a cat\nsat\r\non\ta\u2028mat") == ("a", "cat", "sat", "on", "a", "mat")


def test_a_caption_has_the_same_tokens_whether_or_not_it_is_remembered() -> None:
    caption = "It's a T-shirt (red), isn't it? "
    long = caption * 100
    assert tokenize(long) == tokenize(caption) * 100
