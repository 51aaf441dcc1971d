"""Scores of arms: what is averaged, what is paired, what is refused and what is warned of."""

from __future__ import annotations

import json
import random
import statistics
from typing import Any

import pytest

from limbeck.errors import DataError, UsageError
from limbeck.evaluate.scoring import ModelPredictions, score_models
from limbeck.metrics import Metric
from limbeck.metrics.bleu import Bleu
from limbeck.metrics.cider_d import CiderD
from limbeck.metrics.element_f1 import ElementF1
from limbeck.metrics.exact_match import ExactMatch
from limbeck.metrics.rouge_l import RougeL
from limbeck.metrics.token_f1 import TokenF1
from limbeck.records import Prediction, Sample

N = 60
SAMPLES = [
    Sample(
        f"s{i}",
        "test",
        (),
        references=(f"the answer is number {i}",),
        metadata={"category": "even" if i % 2 == 0 else "odd", "app": 3},
    )
    for i in range(N)
]


def model(arm: str, seed: int | None, right: float, **changes: Any) -> ModelPredictions:
    """Answers of which about the share `right` is correct, the easy samples first."""
    draw = random.Random(f"{arm}{seed}")
    texts = [
        sample.references[0] if i < right * N + draw.randint(-3, 3) else "no idea at all"
        for i, sample in enumerate(SAMPLES)
    ]
    name = arm if seed is None else f"{arm}-seed{seed}"
    predictions = [
        Prediction(sample.id, name, text, len(text.split()), **changes)
        for sample, text in zip(SAMPLES, texts, strict=True)
    ]
    return ModelPredictions(name, arm, seed, predictions)


MODELS = [
    model("teacher", None, 0.9),
    model("student", 0, 0.7),
    model("student", 1, 0.8),
    model("control", 0, 0.6),
    model("control", 1, 0.65),
]


def scores_of(models: list[ModelPredictions], *metrics: Metric, **options: Any) -> dict[str, Any]:
    return score_models(models, SAMPLES, metrics, bootstrap=300, **options)[0]


def difference(scores: dict[str, Any], a: str, b: str) -> dict[str, Any]:
    [row] = [row for row in scores["differences"] if (row["a"], row["b"]) == (a, b)]
    return row


def test_every_score_has_n_and_an_interval_that_holds_it() -> None:
    scores = scores_of(MODELS, ExactMatch(), Bleu(), CiderD())
    json.dumps(scores, allow_nan=False)
    assert [one["id"] for one in scores["models"]] == [one.id for one in MODELS]
    for row in scores["models"]:
        assert set(row["scores"]) == {"exact_match", "bleu", "cider_d"}
        for score in row["scores"].values():
            assert score["n"] == N
            assert score["low"] < score["value"] < score["high"]


def test_an_arm_is_the_mean_of_its_seeds_with_their_spread() -> None:
    scores = scores_of(MODELS, ExactMatch())
    values = {row["id"]: row["scores"]["exact_match"]["value"] for row in scores["models"]}
    teacher, student, _ = scores["arms"]
    own = [values["student-seed0"], values["student-seed1"]]
    found = student["scores"]["exact_match"]
    assert student["seeds"] == [0, 1]
    assert found["per_seed"] == own
    assert found["mean"] == pytest.approx(statistics.fmean(own))
    assert found["sd"] == pytest.approx(statistics.stdev(own))
    assert found["low"] < found["mean"] < found["high"]
    assert teacher["seeds"] == [None]
    assert teacher["scores"]["exact_match"]["sd"] is None


def test_differences_are_paired_by_seed_and_an_arm_without_seed_meets_each() -> None:
    scores = scores_of(MODELS, ExactMatch())
    values = {row["id"]: row["scores"]["exact_match"]["value"] for row in scores["models"]}
    assert {(row["a"], row["b"]) for row in scores["differences"]} == {
        ("teacher", "student"), ("teacher", "control"), ("student", "control")
    }  # fmt: skip
    row = difference(scores, "student", "control")
    expected = [values[f"student-seed{s}"] - values[f"control-seed{s}"] for s in (0, 1)]
    assert [one["seed"] for one in row["per_seed"]] == [0, 1]
    assert [one["value"] for one in row["per_seed"]] == pytest.approx(expected)
    assert row["mean"] == pytest.approx(statistics.fmean(expected))
    assert row["low"] <= row["mean"] <= row["high"]
    against_teacher = difference(scores, "teacher", "student")
    assert [one["seed"] for one in against_teacher["per_seed"]] == [0, 1]


def test_pairing_makes_the_interval_of_a_difference_narrower_than_chance_alone_would() -> None:
    scores = scores_of([model("a", None, 0.6), model("b", None, 0.5)], ExactMatch())
    row = difference(scores, "a", "b")
    widths = [
        one["scores"]["exact_match"]["high"] - one["scores"]["exact_match"]["low"]
        for one in scores["models"]
    ]
    unpaired = sum(width**2 for width in widths) ** 0.5
    assert row["high"] - row["low"] < 0.8 * unpaired


def test_groups_hold_the_scores_of_their_samples() -> None:
    scores = scores_of(MODELS[:1], ExactMatch())
    texts = [one.text for one in MODELS[0].predictions]
    even = [texts[i] == SAMPLES[i].references[0] for i in range(0, N, 2)]
    found = scores["groups"]["category"]["even"]["teacher"]["exact_match"]
    assert found["value"] == pytest.approx(statistics.fmean(even))
    assert found["n"] == N // 2
    assert 0 <= found["low"] < found["value"] < found["high"] <= 1
    assert set(scores["groups"]) == {"category"}


def test_lengths_are_reported_for_every_model() -> None:
    cut = model("cut", None, 1.1, finished=False)
    lengths = scores_of([cut], ExactMatch())["models"][0]["lengths"]
    assert lengths == pytest.approx(
        {
            "words_mean": 5.0,
            "reference_words_mean": 5.0,
            "ratio": 1.0,
            "new_tokens_mean": 5.0,
            "finished_share": 0.0,
            "empty_share": 0.0,
        }
    )


def test_samples_without_references_are_left_out_and_counted() -> None:
    samples = [*SAMPLES[:10], Sample("bare", "test", ())]
    predictions = [Prediction(sample.id, "m", "the answer is number 3", 1) for sample in samples]
    models = [ModelPredictions("m", "m", None, predictions)]
    scores, per_sample = score_models(models, samples, [TokenF1()], bootstrap=100)
    assert scores["n"] == 11
    assert scores["models"][0]["scores"]["token_f1"]["n"] == 10
    assert per_sample["m"]["token_f1"][10] is None
    assert all(value is not None for value in per_sample["m"]["token_f1"][:10])
    assert scores["warnings"] == ["1 of 11 samples have no reference for token_f1 and are left out"]


def test_a_metric_without_any_sample_has_no_score_and_says_so() -> None:
    scores = scores_of(MODELS[:1], ElementF1(), ExactMatch())
    assert set(scores["models"][0]["scores"]) == {"exact_match"}
    assert "60 of 60 samples have no reference for element_f1" in scores["warnings"][0]


def test_a_ranking_that_flips_between_metrics_is_warned_of() -> None:
    verbose = [f"{s.references[0]} indeed, as far as anybody can say today" for s in SAMPLES]
    brief = [s.references[0] if i % 3 == 0 else "??" for i, s in enumerate(SAMPLES)]
    models = [
        ModelPredictions(
            arm,
            arm,
            None,
            [Prediction(s.id, arm, t, 9) for s, t in zip(SAMPLES, texts, strict=True)],
        )
        for arm, texts in (("verbose", verbose), ("brief", brief))
    ]
    warnings = scores_of(models, ExactMatch(), RougeL())["warnings"]
    assert (
        "the ranking depends on the metric: verbose is above brief by rouge_l, below by exact_match"
        ": a flip beyond the noise"
    ) in warnings
    assert any(text.startswith("answers of verbose have 2.6 times the words") for text in warnings)
    assert not any("ranking" in text for text in scores_of(models, RougeL())["warnings"])


def test_noise_alone_is_no_flip_of_the_ranking() -> None:
    texts = [
        ["the answer is number 0", "so the answer is number 1", "so the answer is number 2"],
        ["unknown", "the answer is number 1", "the answer is number 2"],
    ]
    models = [
        ModelPredictions(
            arm, arm, None, [Prediction(f"s{i}", arm, text, 5) for i, text in enumerate(own)]
        )
        for arm, own in zip(("a", "b"), texts, strict=True)
    ]
    scores, _ = score_models(models, SAMPLES[:3], [ExactMatch(normalise=False), RougeL()])
    assert [row["mean"] > 0 for row in scores["differences"]] == [False, True]
    assert not any("ranking" in text for text in scores["warnings"])


def test_seeds_that_differ_between_arms_are_warned_of() -> None:
    scores = scores_of([model("a", 0, 0.6), model("b", 1, 0.5)], ExactMatch())
    assert difference(scores, "a", "b")["per_seed"] == []
    assert "a and b share no seed: their difference is not paired by seed" in scores["warnings"]


def test_predictions_in_another_order_give_the_same_scores() -> None:
    turned = ModelPredictions("teacher", "teacher", None, MODELS[0].predictions[::-1])
    assert scores_of([turned], RougeL()) == scores_of(MODELS[:1], RougeL())


def test_models_that_did_not_answer_exactly_the_samples_are_refused() -> None:
    whole = list(MODELS[0].predictions)
    missing = ModelPredictions("m", "m", None, whole[1:])
    with pytest.raises(DataError, match=r"m: has no answer to 1 of 60 samples \(s0\)"):
        scores_of([missing], RougeL())
    foreign = ModelPredictions("m", "m", None, [*whole, Prediction("x", "m", "", 0)])
    with pytest.raises(DataError, match=r"answered what was not asked: 1 of 60 samples \(x\)"):
        scores_of([foreign], RougeL())
    twice = ModelPredictions("m", "m", None, [*whole, whole[0]])
    with pytest.raises(DataError, match="answered a sample twice"):
        scores_of([twice], RougeL())


def test_metrics_and_models_may_be_listed_once_only() -> None:
    with pytest.raises(UsageError, match="metric 'bleu' is listed twice"):
        scores_of(MODELS, Bleu(), Bleu(implementation="sacrebleu"))
    with pytest.raises(UsageError, match="model 'teacher' is listed twice"):
        scores_of([MODELS[0], MODELS[0]], Bleu())
    with pytest.raises(DataError, match="nothing to score"):
        score_models([], SAMPLES, [Bleu()])
