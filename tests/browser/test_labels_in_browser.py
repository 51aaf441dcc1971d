"""The page of labels in a real Chromium: filters, sorting, search, and hostile answers."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from made_labels import make_labels
from test_report_in_browser import (
    CHROMIUM,
    HOSTILE,
    LAYOUT,
    found_text,
    open_page,
    probe,
    shown,
)

from limbeck.records import Label
from limbeck.report.labels import labels_page, summarise_labels

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="/usr/bin/chromium is not installed"),
]


def write_page(folder: Path, **options) -> tuple[Path, list[Label]]:
    labels, samples, data = make_labels(folder / "data", **options)
    path = folder / "labels.html"
    path.write_text(
        labels_page(summarise_labels(labels, samples), labels, samples, data, name="my run")
    )
    return path, labels


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> tuple[Path, list[Label]]:
    return write_page(tmp_path_factory.mktemp("labels"))


def test_the_page_opens_without_a_complaint(made):
    page, labels = made
    dom, console = open_page(page)
    assert console == ""
    assert shown(dom) == [row.sample_id for row in labels[:20]]
    assert found_text(dom) == "Showing 1-20 of 60 samples."


def test_filters_by_label_reason_split_and_kind_narrow_together(made):
    page, labels = made
    dom, _ = open_page(page, "#label=unfit&reason=empty")
    wanted = [r.sample_id for r in labels if r.reasons[:1] == ("empty",)]
    assert shown(dom) == wanted
    assert len(wanted) == 5
    dom, _ = open_page(page, "#split=unlabelled&answer=first+reference")
    assert shown(dom) == [r.sample_id for i, r in enumerate(labels) if i >= 40 and r.gold]
    dom, _ = open_page(page, "#split=nonsense&label=bogus")
    assert found_text(dom) == "Showing 1-20 of 60 samples."


def test_sorting_by_confidence_and_by_length(made):
    page, labels = made
    dom, _ = open_page(page, "#sort=worst&metric=0")
    known = [r for r in labels if r.mean_log_probability is not None]
    assert (
        shown(dom)
        == [r.sample_id for r in sorted(known, key=lambda r: r.mean_log_probability)][:20]
    )
    dom, _ = open_page(page, "#sort=best&metric=2&label=fit")
    lengths = {r.sample_id: r.tokens for r in labels}
    found = [lengths[name] for name in shown(dom)]
    assert found == sorted((r.tokens for r in labels if r.valid), reverse=True)[:20]


def test_search_and_a_range_of_confidence(made):
    page, labels = made
    dom, _ = open_page(page, "#q=answer+17%3A")
    assert shown(dom) == [labels[17].sample_id]
    dom, _ = open_page(page, "#metric=0&min=-0.1&max=-0.05")
    wanted = [
        r.sample_id
        for r in labels
        if r.mean_log_probability is not None and -0.1 <= r.mean_log_probability <= -0.05
    ]
    assert shown(dom) == wanted


def test_choosing_in_the_form_filters_and_resets(made):
    page, _ = made
    found = probe(
        page,
        """
        const choose = async (name, value) => {
          const field = document.querySelector(`[name="${name}"]`);
          field.value = value;
          field.dispatchEvent(new Event("input", { bubbles: true }));
          await pause(400);
          return document.getElementById("found").textContent;
        };
        result = { unfit: await choose("label", "unfit") };
        result.train = await choose("split", "train");
        result.address = location.hash;
        document.querySelector('button[type="reset"]').click();
        result.reset = document.getElementById("found").textContent;
        result.hidden = [...document.querySelectorAll("#filters [hidden] select")].length;
        """,
    )
    assert found["unfit"].startswith("Showing 1-10 of 10")
    assert found["train"].startswith("Showing 1-7 of 7")
    assert found["address"] == "#label=unfit&split=train"
    assert found["reset"] == "Showing 1-20 of 60 samples."


@pytest.mark.parametrize("width", [500, 1280])
def test_nothing_overflows_and_everything_has_a_name(made, width):
    found = probe(made[0], LAYOUT, width=width)
    assert found["overflow"] <= 0
    assert found["broken"] == found["withoutAlt"] == found["unnamed"] == 0
    assert found["targets"] == 0
    assert len(set(found["ids"])) == len(found["ids"])
    assert found["headings"][0] == 1


def test_hostile_answers_neither_run_nor_break_the_page(tmp_path):
    page, _ = write_page(tmp_path, count=12, texts=tuple(HOSTILE))
    dom, console = open_page(page)
    assert console == ""
    assert re.search(r"<title>(.*?)</title>", dom)[1] == "my run: labels"
    gallery = dom[dom.index('<div id="cards">') :]
    assert "&lt;script&gt;document.title='owned'&lt;/script&gt;" in gallery
    assert '<img src="x"' not in gallery
    assert probe(page, LAYOUT, width=500)["overflow"] <= 0
    assert len(shown(dom)) == 12
