"""ANLS on worked examples, and its edit distance against the textbook table."""

from __future__ import annotations

import random

import pytest

from limbeck.metrics.anls import Anls, edit_distance


def table_distance(first: str, second: str) -> int:
    row = list(range(len(second) + 1))
    for i, left in enumerate(first, 1):
        before, row[0] = row[0], i
        for j, right in enumerate(second, 1):
            before, row[j] = (
                row[j],
                min(row[j] + 1, row[j - 1] + 1, before + (left != right)),
            )
    return row[-1]


def test_the_edit_distance_is_that_of_the_table() -> None:
    draw = random.Random(0)
    for _ in range(500):
        first, second = ("".join(draw.choices("abc", k=draw.randint(0, 80))) for _ in range(2))
        assert edit_distance(first, second) == table_distance(first, second)


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [
        ("Coca-Cola", ["coca cola"], 1 - 1 / 9),
        ("  The  Dog ", ["the dog"], 1.0),
        ("kitten", ["sitting", "mitten"], 1 - 1 / 6),
        ("abcd", ["abxy"], 0.0),  # half of it is wrong, and half is too much
        ("abcde", ["abcxy"], 0.6),
        ("abcd", [], 0.0),
        ("", ["abc"], 0.0),
        ("", [""], 1.0),
    ],
)
def test_the_best_reference_counts_and_half_wrong_is_wrong(
    answer: str, references: list[str], score: float
) -> None:
    assert Anls().compute([answer], [references]).value == pytest.approx(score)


def test_another_threshold_forgives_more_or_less() -> None:
    assert Anls(threshold=0.6).compute(["abcd"], [["abxy"]]).value == pytest.approx(0.5)
    assert Anls(threshold=0.1).compute(["kitten"], [["mitten"]]).value == 0
    assert Anls().signature == "anls|threshold:0.5"
