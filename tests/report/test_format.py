from __future__ import annotations

import math

import pytest

from limbeck.report import format as written


@pytest.mark.parametrize(
    ("value", "decimals", "signed", "expected"),
    [
        (0.8236, 3, False, "0.824"),
        (-0.5, 2, False, "\N{MINUS SIGN}0.50"),
        (0.5, 2, True, "+0.50"),
        (-0.0004, 3, True, "0.000"),
        (12345.6, 0, False, "12,346"),
        (None, 3, False, "n/a"),
        (math.nan, 3, False, "n/a"),
    ],
)
def test_decimals_are_fixed_signs_true_and_missing_values_named(value, decimals, signed, expected):
    assert written.decimal(value, decimals, signed=signed) == expected


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (41.53, "ms", "41.5 ms"),
        (1538.0, "ms", "1.54 s"),
        (431.0, "MiB", "431 MiB"),
        (5939.2, "MiB", "5.80 GiB"),
        (0.41, "s", "410 ms"),
        (112.0, "s", "1 min 52 s"),
        (610.4, "tokens/s", "610 tokens/s"),
    ],
)
def test_quantities_get_the_unit_that_reads_best(value, unit, expected):
    assert written.quantity(value, unit) == expected


def test_score_decimals_follow_the_metrics_scale():
    assert written.score_decimals([0.2, 0.99]) == 3
    assert written.score_decimals([2.4, 0.1]) == 2
    assert written.score_decimals([34.2, None]) == 1
    assert written.score_decimals([]) == 3


def test_counts_ratios_and_sizes_read_as_people_write_them():
    assert written.parameters(1_570_000) == "1.57 M"
    assert written.parameters(8_290_000_000) == "8.29 B"
    assert written.data_size(1_540_000) == "1.47 MiB"
    assert written.times(1.07) == "1.07×"
    assert written.times(4.18) == "4.2×"
    assert written.percent(0.963) == "96.3 %"
    assert written.duration(7500) == "2 h 5 min"
    assert written.interval(-0.1, 0.2, 2) == "[\N{MINUS SIGN}0.10, 0.20]"


def test_a_spread_names_its_unit_once():
    assert written.spread(39.4, 46.5, "ms") == "39.4 to 46.5 ms"
    assert written.spread(900, 1500, "ms") == "900 ms to 1.50 s"
