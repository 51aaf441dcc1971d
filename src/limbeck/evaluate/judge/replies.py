"""What a judge's reply says; None where it says nothing that can be read, or two things."""

from __future__ import annotations

import re
from typing import Literal

Verdict = Literal["A", "B", "TIE"]

_MARKS = r"[\s*_`#>\"'.]*"
_VERDICT = re.compile(rf"^{_MARKS}verdict{_MARKS}[:=]{_MARKS}(A|B|tie)\b{_MARKS}$", re.I | re.M)
_BARE_VERDICT = re.compile(rf"{_MARKS}(A|B|tie){_MARKS}", re.I)
_SCORE = re.compile(
    rf"^{_MARKS}score{_MARKS}[:=]{_MARKS}(\d+)(?:\s*/\s*(\d+))?{_MARKS}$", re.I | re.M
)
_BARE_SCORE = re.compile(rf"{_MARKS}(\d+)(?:\s*/\s*(\d+))?{_MARKS}")


def read_verdict(reply: str) -> Verdict | None:
    """The verdict on a line of its own, or as all there is; two that differ are none."""
    bare = _BARE_VERDICT.fullmatch(reply)
    found = {bare[1].upper()} if bare else {m[1].upper() for m in _VERDICT.finditer(reply)}
    return found.pop() if len(found) == 1 else None  # type: ignore[return-value]


def read_grade(reply: str, scale: int) -> int | None:
    """A whole grade from 1 to `scale`, likewise; `4/5` is read on a scale to 5 only."""
    bare = _BARE_SCORE.fullmatch(reply)
    said = [bare] if bare else list(_SCORE.finditer(reply))
    found = {int(m[1]) if m[2] is None or int(m[2]) == scale else 0 for m in said}
    grade = found.pop() if len(found) == 1 else 0
    return grade if 1 <= grade <= scale else None
