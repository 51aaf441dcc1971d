"""The bootstrap against what statistics says it must give."""

from __future__ import annotations

import time

import numpy as np
import pytest

from limbeck.evaluate import bootstrap
from limbeck.evaluate.bootstrap import bootstrap_values, interval
from limbeck.metrics.bleu import Bleu
from limbeck.metrics.exact_match import ExactMatch


def test_the_interval_of_a_mean_is_that_of_the_normal_approximation() -> None:
    rows = np.random.default_rng(1).normal(3.0, 2.0, size=(4000, 1))
    [values] = bootstrap_values(ExactMatch(), [rows], resamples=4000, seed=0)
    low, high = interval(float(rows.mean()), values, 0.95)
    error = rows.std() / np.sqrt(4000)
    assert low == pytest.approx(rows.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(rows.mean() + 1.96 * error, abs=0.15 * error)


def test_about_95_of_100_intervals_hold_the_true_mean() -> None:
    generator = np.random.default_rng(2)
    hits = 0
    for trial in range(400):
        rows = generator.random((60, 1))
        [values] = bootstrap_values(ExactMatch(), [rows], resamples=300, seed=trial)
        low, high = interval(float(rows.mean()), values, 0.95)
        hits += low <= 0.5 <= high
    assert 0.91 <= hits / 400 <= 0.98


def test_paired_models_share_their_draws() -> None:
    rows = np.random.default_rng(3).random((200, 1))
    first, second = bootstrap_values(ExactMatch(), [rows + 0.25, rows], resamples=500, seed=0)
    assert np.ptp(first - second) < 1e-12
    assert np.ptp(first) > 0.05


def test_the_same_seed_gives_the_same_values_and_another_does_not() -> None:
    rows = np.random.default_rng(4).random((50, 1))
    values = [
        bootstrap_values(ExactMatch(), [rows], resamples=200, seed=seed)[0] for seed in (0, 0, 1)
    ]
    assert np.array_equal(values[0], values[1])
    assert not np.array_equal(values[0], values[2])


def test_an_interval_is_widened_to_hold_a_value_outside_its_percentiles() -> None:
    assert interval(0.2, np.full(100, 0.5), 0.95) == (0.2, 0.5)
    assert interval(0.8, np.full(100, 0.5), 0.95) == (0.5, 0.8)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(5).random((50, 1))
    [whole] = bootstrap_values(ExactMatch(), [rows], resamples=300, seed=0)
    monkeypatch.setattr(bootstrap, "CHUNK_COUNTS", 50 * 7)
    [parts] = bootstrap_values(ExactMatch(), [rows], resamples=300, seed=0)
    assert np.allclose(whole, parts, rtol=1e-12)


def test_a_thousand_resamples_of_2000_samples_and_6_models_take_seconds() -> None:
    rows = np.random.default_rng(6).integers(0, 30, size=(2000, 20)).astype(np.float64)
    started = time.process_time()
    bootstrap_values(Bleu(), [rows] * 6, resamples=1000, seed=0)
    assert time.process_time() - started < 5
