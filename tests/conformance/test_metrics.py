"""What every metric promises; a file in limbeck/metrics inherits it by being there."""

from __future__ import annotations

import math
import random
import string
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from limbeck.errors import DataError
from limbeck.evaluate.bootstrap import bootstrap_values, interval
from limbeck.evaluate.scoring import ModelPredictions, score_models
from limbeck.metrics import Metric
from limbeck.recipe.component import build_component, component_names
from limbeck.records import Prediction, Sample
from sentence_encoders import made_encoder

KINDS = component_names("limbeck.metrics")
OBJECTS = [
    "red login button", "blue search field", "small price table", "wide music player",
    "tall weather chart", "round volume knob", "green chat bubble", "grey settings list",
    "dark photo grid", "bright map marker",
]  # fmt: skip
REFERENCES = [
    [f"This screen shows one {thing} near its title. {thing}, title {i}, icon {thing[::-1]}"]
    for i, thing in enumerate(OBJECTS)
]
COPIES = [own[0] for own in REFERENCES]


def metric_of(kind: str) -> Metric:
    needed = {"embedding_similarity": lambda: {"model": made_encoder()}}
    options = needed.get(kind, dict)()
    return cast(Metric, build_component("limbeck.metrics", "kind", {"kind": kind, **options}))


@pytest.fixture(params=KINDS)
def metric(request: pytest.FixtureRequest) -> Metric:
    return metric_of(request.param)


def best_of(metric: Metric) -> float:
    return float(metric.scale.split("-")[1])


def ranked(metric: Metric) -> Metric:
    if not metric.higher_is_better:
        pytest.skip(f"{metric.key} has no better end")
    return metric


def test_the_reference_itself_gives_the_maximum(metric: Metric) -> None:
    result = ranked(metric).compute(COPIES, REFERENCES)
    assert result.value == pytest.approx(best_of(metric), rel=1e-6)
    assert result.per_sample == pytest.approx([best_of(metric)] * len(COPIES), rel=1e-6)


def test_shuffled_predictions_score_lower_than_copied_references(metric: Metric) -> None:
    copied = ranked(metric).compute(COPIES, REFERENCES).value
    shuffled = metric.compute(COPIES[1:] + COPIES[:1], REFERENCES).value
    assert shuffled < 0.8 * copied


def test_a_damaged_answer_scores_between_the_copy_and_nothing(metric: Metric) -> None:
    damaged = [COPIES[0].replace("title", "heading"), *COPIES[1:]]
    result = ranked(metric).compute(damaged, REFERENCES)
    assert 0 < result.value < best_of(metric) * (1 - 1e-6)
    assert result.per_sample[0] < result.per_sample[1]


@pytest.mark.parametrize("nothing", ["", "   ", "\n\t"])
def test_empty_predictions_score_worst(metric: Metric, nothing: str) -> None:
    result = metric.compute([nothing] * len(COPIES), REFERENCES)
    worst = 0 if metric.higher_is_better else 1
    assert result.value == pytest.approx(worst, abs=1e-9)
    assert result.per_sample == pytest.approx([worst] * len(COPIES), abs=1e-9)


def test_the_best_of_several_references_is_enough(metric: Metric) -> None:
    several = [[*REFERENCES[(i + 1) % len(COPIES)], *own] for i, own in enumerate(REFERENCES)]
    one_of = ranked(metric).compute(COPIES, several).value
    wrong = metric.compute(COPIES, [own[:1] for own in several]).value
    assert one_of > wrong


def test_the_order_of_samples_does_not_matter(metric: Metric) -> None:
    predictions = [*COPIES[1:5], *COPIES[:1], *COPIES[5:]]
    order = [7, 2, 9, 0, 5, 3, 8, 1, 6, 4]
    straight = metric.compute(predictions, REFERENCES)
    turned = metric.compute([predictions[i] for i in order], [REFERENCES[i] for i in order])
    assert turned.value == pytest.approx(straight.value, rel=1e-12)
    assert turned.per_sample == pytest.approx([straight.per_sample[i] for i in order], rel=1e-12)


def test_one_sample_works(metric: Metric) -> None:
    result = metric.compute(COPIES[:1], REFERENCES[:1])
    assert len(result.per_sample) == 1
    assert math.isfinite(result.value)
    low, high = interval(result.value, _resampled(metric, COPIES[:1], REFERENCES[:1]), 0.95)
    assert low == high == pytest.approx(result.value)


def test_nothing_to_score_is_an_error(metric: Metric) -> None:
    with pytest.raises(DataError, match="no sample"):
        metric.compute([], [])
    with pytest.raises(DataError, match="differ in number"):
        metric.compute(["a"], [["a"], ["b"]])


def test_equal_models_differ_by_exactly_zero(metric: Metric) -> None:
    samples = [Sample(str(i), "test", (), references=tuple(r)) for i, r in enumerate(REFERENCES)]
    answers = [text[: 20 + 7 * i] for i, text in enumerate(COPIES)]
    models = [
        ModelPredictions(
            arm, arm, None, [Prediction(str(i), arm, t, 3) for i, t in enumerate(answers)]
        )
        for arm in ("teacher", "student")
    ]
    scores, _ = score_models(models, samples, [metric], bootstrap=200)
    [row] = scores["differences"]
    assert (row["mean"], row["low"], row["high"]) == (0.0, 0.0, 0.0)
    assert [(s["value"], s["low"], s["high"]) for s in row["per_seed"]] == [(0.0, 0.0, 0.0)]


CONTROLS = 80
"""Samples of the tests with controls."""


def controls_of(metric: Metric) -> dict[str, Any]:
    """Scores of a teacher, a student that is the teacher, shuffled, copied and empty answers."""
    draw = random.Random(0)
    things = [" ".join(draw.sample(string.ascii_lowercase, 2)) for _ in range(CONTROLS)]
    things = [f"{a}{i} {b}{i * 7}" for i, (a, b) in enumerate(t.split() for t in things)]
    references = [f"This screen shows one {t} near a title. {t}, title {t}" for t in things]
    samples = [
        Sample(str(i), "test", (), references=(text,), metadata={"question_type": "xyz"[i % 3]})
        for i, text in enumerate(references)
    ]
    half = [text if i % 2 else text[: 30 + i % 9] for i, text in enumerate(references)]
    answers = {"teacher": half, "student": half, "copied": references, "empty": [""] * CONTROLS}
    for name in ("shuffled", "shuffled_again"):
        answers[name] = draw.sample(references, CONTROLS)
    models = [
        ModelPredictions(arm, arm, None, [Prediction(str(i), arm, t, 3) for i, t in enumerate(own)])
        for arm, own in answers.items()
    ]
    return score_models(models, samples, [metric], bootstrap=300)[0]


@pytest.fixture(scope="module", params=KINDS)
def controls(request: pytest.FixtureRequest) -> tuple[Metric, dict[str, Any]]:
    metric = metric_of(request.param)
    return metric, controls_of(metric)


def gap(rows: Sequence[dict[str, Any]], a: str, b: str) -> dict[str, Any]:
    return next(row for row in rows if (row["a"], row["b"]) == (a, b))


def test_a_student_that_is_the_teacher_ties_with_it_everywhere(
    controls: tuple[Metric, dict[str, Any]],
) -> None:
    _, scores = controls
    row = gap(scores["differences"], "teacher", "student")
    assert (row["mean"], row["low"], row["high"]) == (0, 0, 0)
    pair = gap(scores["length_matched"]["pairs"], "teacher", "student")
    assert pair["n"] == CONTROLS
    assert [(r["mean"], r["low"], r["high"]) for r in pair["differences"]] == [(0, 0, 0)]
    for groups in scores["groups"]["question_type"].values():
        assert groups["teacher"] == groups["student"]
    means = scores["group_means"]["question_type"]
    assert means["teacher"] == means["student"]
    assert not any({f["a"], f["b"]} == {"teacher", "student"} for f in scores["flips"])
    rows = {one["arm"]: one["scores"] for one in scores["text_agreement"]}
    assert {score["mean"] for score in rows["student"].values()} == {1}
    assert rows["copied"]["exact_text"]["mean"] == 0.5


def test_the_reference_is_the_maximum_and_nothing_is_zero(
    controls: tuple[Metric, dict[str, Any]],
) -> None:
    metric, scores = controls
    found = {row["arm"]: row["scores"][metric.key] for row in scores["arms"]}
    best, worst = (best_of(metric), 0) if metric.higher_is_better else (0, 1)
    for arm, value in (("copied", best), ("empty", worst)):
        own = found[arm]
        assert (own["mean"], own["low"], own["high"]) == pytest.approx((value,) * 3, abs=1e-6)


def test_shuffled_predictions_are_no_better_than_chance(
    controls: tuple[Metric, dict[str, Any]],
) -> None:
    """Two shuffles are two draws of chance: they do not differ, and both are far below a copy."""
    metric, scores = controls
    row = gap(scores["differences"], "shuffled", "shuffled_again")
    assert row["low"] <= 0 <= row["high"]
    if metric.higher_is_better:
        for name in ("shuffled", "shuffled_again"):
            assert gap(scores["differences"], "copied", name)["low"] > 0.2 * best_of(metric)


def test_chance_is_what_shuffled_answers_of_known_shares_must_give() -> None:
    """Of four equally frequent answers in random order a quarter is right."""
    draw, n = random.Random(3), 400
    samples = [Sample(str(i), "test", (), references=("abcd"[i % 4] * 3,)) for i in range(n)]
    texts = draw.sample([sample.references[0] for sample in samples], n)
    answers = [Prediction(str(i), "m", text, 1) for i, text in enumerate(texts)]
    models = [ModelPredictions("m", "m", None, answers)]
    metrics = [metric_of(kind) for kind in ("exact_match", "token_f1", "anls", "rouge_l")]
    found = score_models(models, samples, metrics, bootstrap=500)[0]["models"][0]["scores"]
    for score in found.values():
        assert score["low"] <= 0.25 <= score["high"]


def test_the_signature_names_the_metric_and_stays_the_same(metric: Metric) -> None:
    assert metric.signature == metric_of(metric.key).signature
    assert metric.name
    assert "|" in metric.signature or metric.signature == metric.key


def test_resampled_statistics_equal_scoring_the_resampled_texts(metric: Metric) -> None:
    """The short cut through sums of statistics is no other number than the long way."""
    if metric.key == "cider_d":
        pytest.skip("document frequencies are those of the whole set, by design")
    predictions = [*COPIES[1:5], *COPIES[:1], *COPIES[5:]]
    rows = metric.compute(predictions, REFERENCES).statistics_nd
    counts = np.array([3, 0, 1, 0, 0, 2, 1, 1, 0, 2], dtype=np.float64)
    drawn = np.repeat(np.arange(10), counts.astype(int))
    long_way = metric.compute([predictions[i] for i in drawn], [REFERENCES[i] for i in drawn])
    assert float(metric.aggregate(counts @ rows, 10)) == pytest.approx(long_way.value, rel=1e-9)


HUGE = {
    "words": "button ",
    "one word": "xxxxx",
    "punctuation": "<.'-a",
    "emoji": "😀 ",
    "right to left": "שלום, עולם. ",
}


@pytest.mark.parametrize(
    ("size", "limit_s"), [(100_000, 4), pytest.param(1_000_000, 40, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("text", [*HUGE.values(), None], ids=[*HUGE, "distinct words"])
def test_a_huge_text_is_scored_in_seconds(
    metric: Metric, text: str | None, size: int, limit_s: float
) -> None:
    huge = text * (size // len(text)) if text else " ".join(map(str, range(size // 6)))
    started = time.process_time()
    result = metric.compute([huge, COPIES[1]], [REFERENCES[0], [*REFERENCES[1], huge]])
    assert time.process_time() - started < limit_s
    assert np.isfinite(result.per_sample).all()


TEXTS = st.text(
    st.one_of(
        st.sampled_from("abAB .,:;!?'\"-/()&0123\n"),
        st.characters(),
        st.sampled_from("éßİשلا日😀\u200f\u0301\ud800\x00\u2028½"),
    ),
    max_size=60,
)


@given(
    rows=st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), min_size=1, max_size=5)
)
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@pytest.mark.parametrize("kind", KINDS)
def test_any_text_gives_finite_numbers_within_the_scale(
    kind: str, rows: list[tuple[str, list[str]]]
) -> None:
    metric = metric_of(kind)
    predictions, references = [row[0] for row in rows], [row[1] for row in rows]
    result = metric.compute(predictions, references)
    values = [result.value, *result.per_sample]
    assert len(result.per_sample) == len(rows)
    assert np.isfinite(values).all()
    assert min(values) >= 0
    if metric.higher_is_better:
        assert max(values) <= best_of(metric) * (1 + 1e-9)
    low, high = interval(result.value, _resampled(metric, predictions, references), 0.95)
    assert low <= result.value <= high


def test_metrics_load_neither_torch_nor_sacrebleu() -> None:
    code = (
        "import sys; from limbeck.recipe.component import component_names;"
        "component_names('limbeck.metrics');"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'sacrebleu'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def _resampled(
    metric: Metric, predictions: Sequence[str], references: Sequence[Sequence[str]]
) -> np.ndarray:
    rows = metric.compute(predictions, references).statistics_nd
    return bootstrap_values(metric, [rows], resamples=100, seed=0)[0]
