"""The Pareto set: what no comparable model clearly beats, and quantiles of chance over seeds."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_stages import write_stages

from limbeck.report.pareto import Candidate, pareto_over_runs, unbeaten
from limbeck.report.results import assemble
from limbeck.report.seeds import half_width, t_quantile

ONE = Candidate("r", "a", "f1", True, 0.8, 0.78, 0.82, 100.0, 500.0, "same")


def test_a_model_that_is_worse_in_everything_is_beaten_and_trade_offs_are_not() -> None:
    worse = replace(ONE, quality=0.7, quality_low=0.68, quality_high=0.72, latency_ms=200.0)
    faster = replace(worse, latency_ms=10.0)
    smaller = replace(worse, memory_mib=50.0)
    assert unbeaten([ONE, worse, faster, smaller]) == [True, False, True, True]


def test_noise_alone_throws_no_model_out() -> None:
    close = replace(ONE, quality=0.795, quality_low=0.775, quality_high=0.815, latency_ms=103.0)
    assert unbeaten([ONE, close]) == [True, True]
    assert unbeaten([ONE, replace(close, latency_ms=110.0)]) == [True, False]


def test_where_less_is_better_the_lower_score_wins() -> None:
    low = replace(ONE, higher_is_better=False, quality=0.1, quality_low=0.08, quality_high=0.12)
    high = replace(ONE, higher_is_better=False)
    assert unbeaten([low, high]) == [True, False]


def test_what_was_not_measured_alike_is_not_compared() -> None:
    worse = replace(ONE, quality=0.1, quality_low=0.0, quality_high=0.2, like="other")
    assert unbeaten([ONE, worse]) == [True, True]


def test_runs_are_grouped_by_data_metric_and_machine(tmp_path: Path) -> None:
    first = assemble(write_stages(tmp_path / "a", samples=24))
    second = {**assemble(write_stages(tmp_path / "b", samples=24)), "name": "second"}
    (group,) = pareto_over_runs([first, second])
    assert {one.run for one, _ in group} == {"synthetic", "second"}
    marks = {(one.run, one.arm): mark for one, mark in group}
    assert marks["second", "student"]
    assert not marks["second", "baseline"], "as costly as the student and far worse"
    other = {**second, "stages": [{"kind": "data", "fingerprint": "other"}]}
    assert len(pareto_over_runs([first, other])) == 2
    assert pareto_over_runs([first, other], metric="cider_d") == []


@pytest.mark.parametrize(
    ("probability", "freedom", "value"),
    [
        *((0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 3, 3.182), (0.995, 2, 9.925)),
        *((0.975, 10, 2.228), (0.99, 5, 3.365), (0.975, 30, 2.042)),
    ],
)
def test_quantiles_are_those_of_the_tables(probability: float, freedom: int, value: float) -> None:
    assert t_quantile(probability, freedom) == pytest.approx(value, abs=6e-4)


def test_more_comparisons_widen_the_interval_over_seeds() -> None:
    one, three = (half_width([0.1, 0.2, 0.3], confidence=0.95, comparisons=n) for n in (1, 3))
    assert one == pytest.approx(4.303 * 0.1 / 3**0.5, rel=1e-3)
    assert three > one
