"""The list of runs in a real Chromium: sorted by every column, readable by everyone."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from test_report_in_use import WINDOWS, opened, violations
from test_runs_page import add_run

from limbeck.report.runs import read_runs, runs_page

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page_path(tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("work")
    for name, samples in (("b", 12), ("a", 24), ("c", 36)):
        add_run(work, name, samples=samples)
    path = work / "runs" / "index.html"
    (work / "runs" / "d").mkdir()
    (work / "runs" / "d" / "run.json").write_text('{"recipe": {}}')
    path.write_text(runs_page(read_runs(work), path, work))
    return path


def test_a_column_is_sorted_both_ways_and_what_is_not_measured_comes_last(chromium, page_path):
    page = opened(chromium, page_path)
    names = (
        "[...document.querySelectorAll('#sortable tbody tr')].map((r) => r.cells[0].dataset.key)"
    )
    page.click("#sortable thead button >> text=run")
    assert page.evaluate(names) == ["a", "b", "c", "d"]
    page.click("#sortable thead button >> text=run")
    assert page.evaluate(names) == ["d", "c", "b", "a"]
    keys = "[...document.querySelectorAll('#sortable tbody tr')].map((r) => r.cells[2].dataset.key)"
    page.click("#sortable thead button >> text=score")
    found = page.evaluate(keys)
    assert found[-1] == ""
    assert [float(key) for key in found[:3]] == sorted(float(key) for key in found[:3])
    page.click("#sortable thead button >> text=score")
    assert page.evaluate(keys) == [*found[2::-1], ""]
    assert page.get_attribute("#sortable thead th:nth-child(3)", "aria-sort") == "descending"
    assert page.complaints == []


@pytest.mark.parametrize("window", WINDOWS)
def test_the_list_passes_the_accessibility_check_and_fits_the_window(chromium, page_path, window):
    page = opened(chromium, page_path, bypass_csp=True, **WINDOWS[window])
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
