"""Words of an answer in any script: what stands between spaces, or each character without them."""

from __future__ import annotations

import regex

_WORD = regex.compile(
    r"[\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Khmer}"
    r"\p{Script=Lao}\p{Script=Myanmar}]\p{M}*"
    r"|[^\s\p{Script=Han}\p{Script=Hiragana}\p{Script=Katakana}\p{Script=Thai}\p{Script=Khmer}"
    r"\p{Script=Lao}\p{Script=Myanmar}]+"
)


def words_of(text: str) -> list[str]:
    """The words; in scripts that are written without spaces every character is one."""
    return _WORD.findall(text)
