"""Scores by question type, and their plain mean with an interval."""

from __future__ import annotations

import statistics

import pytest

from limbeck.evaluate.scoring import ModelPredictions, score_models
from limbeck.metrics.exact_match import ExactMatch
from limbeck.records import Prediction, Sample

TYPES = ["counting"] * 80 + ["spatial"] * 16 + [None] * 4
SAMPLES = [
    Sample(str(i), "test", (), references=("yes",), metadata={"question_type": kind})
    for i, kind in enumerate(TYPES)
]


def model(arm: str, seed: int | None, counting: float, spatial: float) -> ModelPredictions:
    share = {"counting": counting, "spatial": spatial, None: 0.0}
    texts = ["yes" if (i * 37 % 16) < 16 * share[kind] else "no" for i, kind in enumerate(TYPES)]
    rows = [Prediction(s.id, arm, t, 1) for s, t in zip(SAMPLES, texts, strict=True)]
    return ModelPredictions(f"{arm}{seed}", arm, seed, rows)


MODELS = [model("teacher", None, 1, 0.5), model("student", 0, 0.5, 0), model("student", 1, 1, 0)]


def test_a_rare_type_counts_as_much_as_a_frequent_one() -> None:
    scores, _ = score_models(MODELS, SAMPLES, [ExactMatch()], bootstrap=400)
    groups = scores["groups"]["question_type"]
    means = scores["group_means"]["question_type"]
    for arm in ("teacher", "student"):
        own = [groups[kind][arm]["exact_match"]["value"] for kind in ("counting", "spatial")]
        found = means[arm]["exact_match"]
        assert found["value"] == pytest.approx(statistics.fmean(own))
        assert found["low"] <= found["value"] <= found["high"]
        assert (found["n"], found["groups"]) == (96, 2)
    teacher = means["teacher"]["exact_match"]
    assert teacher["value"] == pytest.approx(0.75)
    whole = next(row for row in scores["arms"] if row["arm"] == "teacher")["scores"]["exact_match"]
    assert teacher["value"] < whole["mean"]


def test_the_interval_of_the_mean_is_that_of_independent_groups() -> None:
    """Two groups of standard error s each give s / sqrt(2), whatever the order of their samples."""
    samples = [
        Sample(str(i), "test", (), references=("yes",), metadata={"category": "ab"[i // 200]})
        for i in range(400)
    ]
    answers = ["yes" if i % 2 else "no" for i in range(200)] * 2  # the same pattern in both
    rows = [Prediction(str(i), "m", text, 1) for i, text in enumerate(answers)]
    models = [ModelPredictions("m", "m", None, rows)]
    scores, _ = score_models(models, samples, [ExactMatch()], bootstrap=2000)
    found = scores["group_means"]["category"]["m"]["exact_match"]
    standard_error = (0.25 / 200) ** 0.5 / 2**0.5
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * standard_error, rel=0.1)


def test_one_group_alone_has_no_mean_over_groups() -> None:
    models = [ModelPredictions("m", "m", None, [Prediction("0", "m", "yes", 1)])]
    scores, _ = score_models(models, SAMPLES[:1], [ExactMatch()], bootstrap=100)
    assert scores["group_means"] == {}
