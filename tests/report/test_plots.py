from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from limbeck.report.axes import Axis, fitted
from limbeck.report.plots import Bar, Line, Point, curves, differences, scatter


def test_linear_ticks_are_round_inside_and_all_different():
    for low, high in [(0, 1), (0.93, 0.991), (-0.3, 0.2), (0, 12_345), (1e-5, 3e-5)]:
        labels = Axis(low, high, 0, 100).labels()
        assert 2 <= len(labels) <= 8
        assert all(low - 1e-9 <= value <= high + 1e-9 for value, _ in labels)
        assert len({text for _, text in labels}) == len(labels)


def test_tick_texts_say_the_ticks_value():
    for value, text in Axis(0, 1.05, 0, 100).labels():
        assert float(text) == pytest.approx(value)


def test_an_axis_turns_logarithmic_only_where_values_spread_far():
    assert fitted([40, 110], 0, 100).log is False
    assert fitted([40, 1100], 0, 100).log is True
    assert fitted([0, 1100], 0, 100).log is False
    log = fitted([1, 100], 0, 100, margin=0)
    assert log.at(10) == pytest.approx(50, abs=1)


def test_a_single_value_still_has_an_axis():
    axis = fitted([5.0, 5.0], 0, 100)
    assert axis.low < 5 < axis.high
    assert axis.labels()


def test_plots_are_well_formed_and_escape_what_users_wrote():
    hostile = '"><script>alert(1)</script>'
    point = Point("arm-student", hostile, 1.0, 0.5, hover=hostile)
    far = Point("arm-teacher", "teacher", 9.0, 0.9, 8.0, 10.0, 0.8, 1.0, (0.85, 0.95))
    drawn = [
        scatter([point, far], x_label=hostile, y_label="y", name=hostile, about=hostile),
        curves(
            [Line("line-total", hostile, [1, 2, 3], [3.0, None, 1.0])],
            x_label="step",
            y_label="loss",
            name="n",
            about="a",
        ),
        differences(
            [Bar("arm-control", hostile, "t", 0.1, -0.1, 0.3, (0.0,))], name="n", about=hostile
        ),
    ]
    for svg in drawn:
        tree = ElementTree.fromstring(str(svg))
        assert not [e for e in tree.iter() if e.tag.endswith("script")]
        assert tree.find("title") is not None
        assert tree.find("desc") is not None


def test_a_baseline_far_off_is_marked_at_the_border_instead_of_flattening_the_rest():
    points = [
        Point("arm-teacher", "teacher", 9.0, 0.98),
        Point("arm-student", "student", 1.0, 0.94),
        Point("arm-baseline", "baseline", 1.0, 0.01, off_scale="far below", may_leave=True),
    ]
    svg = str(scatter(points, x_label="x", y_label="y", name="n", about="a"))
    assert "far below" in svg
    heights = [float(y) for y in re.findall(r'class="dot" cx="[\d.]+" cy="([\d.]+)"', svg)]
    assert abs(heights[0] - heights[1]) > 100
