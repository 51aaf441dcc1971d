"""Floors in the report: who looks at the pictures, who does not, and how it is said."""

from __future__ import annotations

from typing import Any

import pytest

from limbeck.evaluate.scoring import ModelPredictions, score_models
from limbeck.metrics.exact_match import ExactMatch
from limbeck.metrics.length_error import LengthError
from limbeck.metrics.rouge_l import RougeL
from limbeck.records import Prediction, Sample
from limbeck.report.floors import floor_warnings, floors

N = 80
SAMPLES = [
    Sample(str(i), "test", (), references=("yes",), metadata={"question_type": "ab"[i % 2]})
    for i in range(N)
]


def scores_of(*arms: tuple[str, float]) -> dict[str, Any]:
    """Arms that are right on a share of the samples, spread over all of them."""
    models = []
    for arm, share in arms:
        own = ["yes" if (i * 37 % N) < share * N else "no" for i in range(N)]
        predictions = [Prediction(str(i), arm, text, 1) for i, text in enumerate(own)]
        seed = None if arm.startswith(("teacher", "most", "nearest")) else 0
        models.append(ModelPredictions(arm, arm, seed, predictions))
    metrics = [ExactMatch(), RougeL(), LengthError()]
    return score_models(models, SAMPLES, metrics, bootstrap=200)[0]


def rows_of(*arms: tuple[str, float], metric: int = 0) -> list[dict[str, Any]]:
    scores = scores_of(*arms)
    return floors(scores, scores["metrics"][metric])


def test_a_model_that_looks_is_said_to_look():
    [row] = rows_of(("student", 0.8), ("student_blanked", 0.25))
    assert row["outcome"] == "better"
    assert row["sentence"].startswith(
        "With blanked pictures the student answers 25.0 % right against 80.0 % with them: "
        "it looks at the pictures (difference +0.5"
    )
    assert (row["value"], row["floor_value"]) == (0.8, 0.25)
    assert row["difference"]["n"] == N
    assert floor_warnings([row]) == []


@pytest.mark.parametrize("blanked", [0.3, 0.28])
def test_a_model_that_does_not_beat_itself_blanked_is_warned_of(blanked: float):
    rows = rows_of(("student", 0.3), ("student_blanked", blanked))
    [warning] = floor_warnings(rows)
    assert "nothing shows that it looks at the pictures" in warning


def test_a_model_that_is_better_without_pictures_is_warned_of_too():
    rows = rows_of(("student", 0.2), ("student_blanked", 0.9))
    assert rows[0]["outcome"] == "worse"
    assert "nothing shows" in floor_warnings(rows)[0]


def test_a_teacher_below_the_most_frequent_answer_is_not_worth_distilling():
    arms = (("teacher", 0.3), ("student", 0.9), ("baseline", 0.0), ("most_frequent", 0.3))
    rows = rows_of(*arms)
    assert [(row["arm"], row["outcome"]) for row in rows] == [
        ("teacher", "tie"),
        ("student", "better"),
    ]
    [warning] = floor_warnings(rows)
    assert "The most frequent answer in training is right in 30.0 %, the teacher 30.0 %" in warning
    assert "not worth distilling" in warning


def test_a_teacher_below_its_nearest_neighbour_is_not_worth_distilling():
    arms = (("teacher", 0.5), ("student", 0.5), ("baseline", 0.0), ("nearest_neighbour", 0.75))
    teacher, student = rows_of(*arms)
    assert teacher["outcome"] == student["outcome"] == "worse"
    assert teacher["sentence"].startswith(
        "The answer of the nearest training picture is right in 75.0 %, the teacher 50.0 %: the"
        " teacher does not beat it and is not worth distilling (difference"
    )
    assert "the student does not beat it (difference" in student["sentence"]
    assert len(floor_warnings([teacher, student])) == 2


def test_a_teacher_that_does_not_beat_itself_blanked_is_not_worth_distilling():
    rows = rows_of(("teacher", 0.3), ("teacher_blanked", 0.3))
    assert "such a teacher is not worth distilling" in floor_warnings(rows)[0]
    rows = rows_of(("teacher", 0.9), ("teacher_blanked", 0.3))
    assert "worth" not in rows[0]["sentence"]


def test_of_an_untrained_baseline_nobody_expects_that_it_looks():
    rows = rows_of(("baseline", 0.0), ("baseline_blanked", 0.0))
    assert len(rows) == 1
    assert floor_warnings(rows) == []


def test_another_metric_is_not_called_a_share():
    [row] = rows_of(("student", 0.8), ("student_blanked", 0.25), metric=1)
    assert "scores 0.250 in ROUGE-L against 0.800 with them" in row["sentence"]


def test_without_floors_there_is_nothing_to_say():
    assert rows_of(("student", 0.8), ("teacher", 0.9)) == []
    assert floors(scores_of(("student", 0.8)), None) == []
