"""Exact match, token F1, element F1 and length ratio on worked examples."""

from __future__ import annotations

import pytest

from limbeck.metrics.element_f1 import ElementF1, listed_elements
from limbeck.metrics.exact_match import ExactMatch
from limbeck.metrics.length_error import LengthError
from limbeck.metrics.token_f1 import TokenF1
from limbeck.records import Sample


def test_exact_match_ignores_case_articles_and_punctuation_unless_told_not_to() -> None:
    predictions, references = ["The red cat.", " red cat "], [["red, cat"], ["red cat"]]
    assert ExactMatch().compute(predictions, references).per_sample == [1, 1]
    assert ExactMatch(normalise=False).compute(predictions, references).per_sample == [0, 1]


def test_token_f1_is_that_of_the_best_reference() -> None:
    result = TokenF1().compute(
        ["a red cat cat", "!", "dog"], [["blue dog", "the red cat"], ["..."], ["cat"]]
    )
    # red cat cat / red cat: precision 2/3, recall 1.
    assert result.per_sample == pytest.approx([0.8, 1.0, 0.0])


@pytest.mark.parametrize(
    ("answer", "elements"),
    [
        ("A login screen. Button, text field, Logo.", {"button", "text field", "logo"}),
        (
            "A login screen. Key elements: a button, the logo and title",
            {"button", "logo and title"},
        ),
        ("A screen: one button, a menu", {"one button", "menu"}),
        ("It is 12:30 here. clock, alarm", {"clock", "alarm"}),
        ("A screen\n- Save button\n- Menu", {"save button", "menu"}),
        ("A screen.\n1. Save\n2) Open; close,, and\tquit", {"save", "open", "close", "quit"}),
        ('A screen. Header: Elements: [tab bar], "icon"', {"tab bar", "icon"}),
        ("A screen with a button, a menu and a list", set()),
        ("A screen with a button.", set()),
        ("", set()),
    ],
)
def test_elements_are_found_by_the_documented_rules(answer: str, elements: set[str]) -> None:
    assert listed_elements(answer) == elements


def test_element_f1_reports_precision_and_recall() -> None:
    result = ElementF1().compute(["A page. menu, logo, map, menu"], [["A page. logo, list"]])
    assert result.value == pytest.approx(2 / 5)
    assert result.details == pytest.approx({"precision": 1 / 3, "recall": 1 / 2})


def test_elements_in_the_metadata_go_before_those_of_the_references() -> None:
    sample = Sample("1", "test", (), metadata={"elements": ["The Logo", "map"]})
    result = ElementF1().compute(["A page. logo, map"], [["A page. something else"]], [sample])
    assert result.value == 1
    assert ElementF1().applies_to([], sample)


def test_samples_whose_references_list_no_element_are_left_out() -> None:
    assert not ElementF1().applies_to(["A page with a logo"], None)
    assert ElementF1().applies_to(["A page", "A page. logo"], None)


def test_length_error_is_the_mean_relative_distance_in_words() -> None:
    result = LengthError().compute(["a b c d", "", "a"], [["a b", "a b c d"], ["a"], ["a"]])
    assert result.per_sample == pytest.approx([1 / 3, 1, 0])
    assert result.value == pytest.approx((1 / 3 + 1 + 0) / 3)
    assert result.details["ratio"] == pytest.approx(5 / 5)
    assert result.details["words_mean"] == pytest.approx(5 / 3)
    assert result.details["empty_share"] == pytest.approx(1 / 3)
