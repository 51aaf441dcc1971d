"""Gold or generated, and the best of several answers."""

from __future__ import annotations

import pytest

from limbeck.errors import TeacherError
from limbeck.labelling.choice import agreement, answer_kinds, choose
from limbeck.recipe.labelling import Labelling
from limbeck.records import Sample
from limbeck.teachers import Answer


def sample(number: int, *references: str) -> Sample:
    return Sample(f"s{number}", "train", (), references=references)


def said(*texts: str, log_probabilities: tuple[float, ...] = ()) -> list[Answer]:
    values = log_probabilities or (None,) * len(texts)
    return [
        Answer(text, 3, True, mean_log_probability=value)
        for text, value in zip(texts, values, strict=True)
    ]


def test_gold_share_is_that_share_and_the_same_for_each_sample_whatever_else_there_is() -> None:
    samples = [sample(n, "gold") for n in range(4000)]
    settings = Labelling(gold_share=0.3)
    kinds = answer_kinds(samples, settings)
    assert 0.27 < sum(kind == "gold" for kind in kinds.values()) / 4000 < 0.33
    assert answer_kinds(samples[::-7], settings).items() <= kinds.items()
    assert answer_kinds(samples, Labelling(gold_share=0.3, seed=1)) != kinds
    more = answer_kinds(samples, Labelling(gold_share=0.6))
    assert all(more[name] == "gold" for name, kind in kinds.items() if kind == "gold")


def test_samples_without_a_reference_are_always_the_teachers() -> None:
    samples = [sample(1), sample(2, "gold")]
    assert answer_kinds(samples, Labelling(gold_share=1)) == {"s1": "generated", "s2": "gold"}
    assert set(answer_kinds(samples, Labelling()).values()) == {"generated"}
    assert set(answer_kinds(samples, Labelling(gold_share=0)).values()) == {"generated"}
    assert set(answer_kinds(samples, Labelling(answers="gold")).values()) == {"gold"}


def test_agreement_is_the_mean_f1_with_the_others() -> None:
    assert agreement(["the red car", "Red car!", "a blue car"]) == pytest.approx([0.75, 0.75, 0.5])
    assert agreement(["same", "same", "same", "other"]) == pytest.approx([2 / 3] * 3 + [0])
    assert agreement(["alone"]) == [1.0]
    assert agreement([]) == []
    assert agreement(["", "", "a word"]) == [0, 0, 0]
    assert agreement(["登录页面", "登录画面"]) == pytest.approx([0.75, 0.75])
    assert agreement(["ｆｕｌｌ　ｗｉｄｔｈ", "full width"]) == [1.0, 1.0]


def test_the_answer_most_like_the_others_is_chosen() -> None:
    found = choose(said("blue boat", "a red car", "red car", "the red car parked"))
    assert (found.answer.text, found.number) == ("a red car", 1)
    assert found.agreement == pytest.approx((0 + 1 + 0.8) / 3)


def test_confidence_chooses_by_log_probability_and_needs_it() -> None:
    answers = said("one", "two", "three", log_probabilities=(-0.9, -0.2, -0.5))
    assert choose(answers, "confidence").answer.text == "two"
    with pytest.raises(TeacherError, match="no log-probabilities"):
        choose(said("one", "two"), "confidence")


def test_a_metric_against_the_references_chooses() -> None:
    answers = said("blue boat", "blue boat", "a red fast car")
    asked = sample(1, "the red car", "a car")
    assert choose(answers, "reference:token_f1", sample=asked).number == 2
    assert choose(answers, "reference:token_f1", sample=sample(1)).number == 0
    assert choose(answers, "reference:length_error", sample=sample(1, "a b c d")).number == 2


def test_first_is_the_first_that_may_be_kept() -> None:
    answers = [Answer("", 0, True, failure="refused by the server"), *said("", "ok", "ok too")]
    assert choose(answers, "first").number == 2
    assert choose(answers, "first", fit=lambda answer: "too" in answer.text).number == 3


def test_unfit_answers_are_not_chosen_but_have_a_say() -> None:
    answers = said("bad bad", "bad bad", "bad bad", "good", "bad good")
    found = choose(answers, fit=lambda answer: "good" in answer.text)
    assert found.answer.text == "bad good"
    none = choose(answers, fit=lambda answer: False)
    assert none.answer.text == "bad bad"
    failed = [Answer("", 0, True, failure="no"), *said(" ")]
    assert choose(failed).number == 0
    assert choose(failed, "confidence").number == 0
