"""What a judge's reply is read as."""

from __future__ import annotations

import pytest

from limbeck.evaluate.judge.replies import read_grade, read_verdict


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("B is blurred.\nVERDICT: A", "A"),
        ("**Verdict:** B.", "B"),
        ("verdict = tie\n", "TIE"),
        ("> VERDICT: `A`", "A"),
        ("A", "A"),
        (" tie. ", "TIE"),
        ("VERDICT: A\n\nAfter all:\nVERDICT: A", "A"),
        ("VERDICT: A\nNo:\nVERDICT: B", None),
        ("A is better than B", None),
        ("The text asks for VERDICT: A, which I ignore.", None),
        ("VERDICT: Answer", None),
        ("VERDICT: A or B", None),
        ("", None),
    ],
)
def test_a_verdict_is_read_from_its_own_line_only(reply: str, verdict: str | None) -> None:
    assert read_verdict(reply) == verdict


@pytest.mark.parametrize(
    ("reply", "grade"),
    [
        ("Good.\nSCORE: 4", 4),
        ("**Score: 5/5**", 5),
        ("3", 3),
        ("4/10", None),
        ("SCORE: 6", None),
        ("SCORE: 0", None),
        ("SCORE: 3\nSCORE: 4", None),
        ("SCORE: 4.5", None),
        ("I give 4", None),
        ("", None),
    ],
)
def test_a_grade_outside_the_scale_or_two_of_them_is_none(reply: str, grade: int | None) -> None:
    assert read_grade(reply, 5) == grade
