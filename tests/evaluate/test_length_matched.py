"""Length bias: scores where lengths are alike, and rankings that turn around with length."""

from __future__ import annotations

from typing import Any

import pytest

from limbeck.evaluate.scoring import ModelPredictions, score_models
from limbeck.metrics import Metric
from limbeck.metrics.exact_match import ExactMatch
from limbeck.metrics.token_f1 import TokenF1
from limbeck.records import Prediction, Sample

N = 90
SAMPLES = [Sample(str(i), "test", (), references=(f"red{i} cat{i} sits{i}",)) for i in range(N)]
VERBOSE = " as far as anybody who looks at it for long enough can say today" * 2


def model(arm: str, texts: list[str], seed: int | None = None) -> ModelPredictions:
    name = arm if seed is None else f"{arm}-seed{seed}"
    rows = [Prediction(s.id, name, t, 3) for s, t in zip(SAMPLES, texts, strict=True)]
    return ModelPredictions(name, arm, seed, rows)


def scores_of(models: list[ModelPredictions], *metrics: Metric) -> dict[str, Any]:
    return score_models(models, SAMPLES, metrics, bootstrap=300)[0]


def right(i: int) -> str:
    return SAMPLES[i].references[0]


def nearly(i: int) -> str:
    return f"red{i} cat{i} runs{i}"


def test_a_verbose_right_teacher_is_above_where_lengths_are_alike_and_that_is_said() -> None:
    # Right everywhere, but on two samples of three in so many words that overlap punishes it.
    teacher = [right(i) + (VERBOSE if i % 3 else "") for i in range(N)]
    scores = scores_of([model("teacher", teacher), model("student", list(map(nearly, range(N))))],
                       TokenF1())  # fmt: skip
    [whole] = scores["differences"]
    assert whole["mean"] < 0
    matched = scores["length_matched"]
    [pair] = matched["pairs"]
    assert (pair["a"], pair["b"], pair["n"], matched["factor"]) == ("teacher", "student", 30, 1.5)
    own = pair["scores"]["teacher"]["token_f1"]
    assert (own["mean"], own["n"]) == (1, 30)
    [row] = pair["differences"]
    assert row["mean"] == pytest.approx(1 - 2 / 3)
    assert row["low"] > 0
    [flip] = scores["flips"]
    assert (flip["between"], flip["metric"], flip["beyond_noise"]) == ("lengths", "token_f1", True)
    assert (
        "the ranking depends on the answers' lengths (token_f1): teacher is above student on the"
        " 30 alike in length, below on all samples: a flip beyond the noise"
    ) in scores["warnings"]
    alone = {one["arm"]: one for one in matched["to_references"]}
    assert (alone["teacher"]["n"], alone["student"]["n"]) == (30, N)
    assert alone["student"]["scores"]["token_f1"]["mean"] == pytest.approx(2 / 3)


def test_rankings_that_stay_are_not_warned_of_and_few_matched_samples_say_nothing() -> None:
    right_often = [right(i) + (VERBOSE if i % 3 else "") for i in range(N)]
    scores = scores_of([model("a", right_often), model("b", ["no"] * N)], TokenF1())
    assert scores["flips"] == []
    few = [right(i) + (VERBOSE if i > 5 else "") for i in range(N)]
    scores = scores_of([model("a", few), model("b", list(map(nearly, range(N))))], TokenF1())
    assert scores["length_matched"]["pairs"][0]["n"] == 6
    assert scores["flips"] == []


def test_a_flip_between_metrics_that_noise_may_have_made_says_so() -> None:
    # By exact match one answer more is right; by token F1 the other arm is clearly above.
    first = [right(i) if i < 31 else "nothing at all" for i in range(N)]
    second = [right(i) if i < 30 else nearly(i) for i in range(N)]
    scores = scores_of([model("a", first), model("b", second)], ExactMatch(), TokenF1())
    [flip] = [one for one in scores["flips"] if one["between"] == "metrics"]
    assert (list(flip["above"]), list(flip["below"])) == (["exact_match"], ["token_f1"])
    assert flip["beyond_noise"] is False
    assert flip["sentence"].endswith("below by token_f1: a flip within the noise")
    assert "exact_match (within the noise)" in flip["sentence"]


def test_the_length_of_an_arm_is_the_mean_over_its_seeds_and_floors_are_left_out() -> None:
    short, long = ["w"] * N, ["w w w"] * N
    models = [
        model("student", short, 0),
        model("student", long, 1),
        model("teacher", ["w w"] * N),
        model("teacher_blanked", ["w w"] * N),
        model("most_frequent", ["w w"] * N),
    ]
    [pair] = scores_of(models, TokenF1())["length_matched"]["pairs"]
    assert (pair["a"], pair["b"], pair["n"]) == ("student", "teacher", N)
    assert len(pair["differences"][0]["per_seed"]) == 2


def test_every_arm_has_its_length_ratio_beside_its_scores() -> None:
    models = [model("student", ["a"] * N, 0), model("student", ["a b c"] * N, 1)]
    [row] = scores_of(models, TokenF1())["arms"]
    assert row["length_ratio"] == pytest.approx((1 / 3 + 1) / 2)
