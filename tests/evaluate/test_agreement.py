"""How like the teacher's answers the others are, as texts."""

from __future__ import annotations

import pytest

from limbeck.evaluate.scoring import ModelPredictions, score_models
from limbeck.metrics.exact_match import ExactMatch
from limbeck.records import Prediction, Sample

SAMPLES = [Sample(str(i), "test", (), references=(f"gold {i}",)) for i in range(20)]


def model(arm: str, texts: list[str], seed: int | None = None) -> ModelPredictions:
    rows = [Prediction(s.id, arm, t, 1) for s, t in zip(SAMPLES, texts, strict=True)]
    return ModelPredictions(f"{arm}{seed}", arm, seed, rows)


def test_agreement_is_with_the_teachers_answer_and_not_with_the_reference() -> None:
    answers = [f"a red cat number {i}" for i in range(20)]
    half = [text if i % 2 else f"gold {i}" for i, text in enumerate(answers)]
    models = [
        model("teacher", answers),
        model("student", answers, 0),
        model("student", half, 1),
        model("control", [f"gold {i}" for i in range(20)], 0),
        model("student_blanked", answers, 0),
        model("most_frequent", answers),
    ]
    scores, _ = score_models(models, SAMPLES, [ExactMatch()], bootstrap=200)
    rows = {row["arm"]: row["scores"] for row in scores["text_agreement"]}
    assert set(rows) == {"student", "control"}
    exact = rows["student"]["exact_text"]
    assert exact["per_seed"] == [1, 0.5]
    assert exact["mean"] == pytest.approx(0.75)
    assert exact["low"] < 0.75 < exact["high"]
    assert exact["n"] == 20
    assert rows["control"]["exact_text"]["mean"] == 0
    assert rows["student"]["rouge_l"]["per_seed"][0] == 1
    assert 0 < rows["control"]["rouge_l"]["mean"] < 0.5  # the number is in both


def test_white_space_at_the_ends_is_no_disagreement_and_case_is() -> None:
    others = [" A cat.\n"] * 10 + ["a cat."] * 10
    models = [model("teacher", ["A cat."] * 20), model("student", others)]
    scores, _ = score_models(models, SAMPLES, [ExactMatch()], bootstrap=100)
    [row] = scores["text_agreement"]
    assert row["scores"]["exact_text"]["mean"] == 0.5


def test_without_a_teacher_there_is_nothing_to_agree_with() -> None:
    scores, _ = score_models([model("student", ["x"] * 20)], SAMPLES, [ExactMatch()], bootstrap=100)
    assert scores["text_agreement"] == []
