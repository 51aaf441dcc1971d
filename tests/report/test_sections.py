from __future__ import annotations

import re
import sys
from pathlib import Path

from markupsafe import Markup

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_stages import write_stages

from limbeck.report import sections as sections_module
from limbeck.report.section import (
    Code,
    Columns,
    Figure,
    Figures,
    Finding,
    Findings,
    Folded,
    Section,
    Words,
    present,
)
from limbeck.report.table import Cell, Table
from limbeck.report.write import write_report


def table(key: str, *rows: str) -> Table:
    return Table(key, f"Table {key}", ("a", "b"), tuple((Cell(r), Cell("1")) for r in rows), "note")


def test_one_entry_puts_a_section_into_the_navigation_and_both_pages(tmp_path, monkeypatch):
    parts = present(
        Words("some words"),
        table("first", "x<y"),
        table("without-rows"),
        Figures((Figure(Markup("<svg id='drawn'></svg>"), "what it shows", "above it"),), "drawn"),
        Findings("Found", (Finding("worse", "It is worse", "for a reason"),)),
        Folded("More of it", (table("folded", "z"),)),
        Columns((present(table("left", "l")), present(Code("as it is")))),
    )
    made = Section("added", "An added section", "Added", "How to read it.", parts)
    before = sections_module.SECTIONS
    monkeypatch.setattr(sections_module, "SECTIONS", (lambda _: made, lambda _: None, *before))
    write_report(tmp_path / "report", write_stages(tmp_path / "stages", samples=8))
    page = (tmp_path / "report" / "index.html").read_text()
    assert '<a href="#added">Added</a>' in page
    section = page.split('<section id="added"')[1].split("</section>")[0]
    for text in (
        *("An added section", "How to read it.", "some words", "x&lt;y", "<svg id='drawn'>"),
        *("what it shows", "above it", "It is worse", "For a reason.", "<summary>More of it"),
        *('id="table-folded"', 'id="table-left"', "as it is"),
    ):
        assert text in section, text
    assert "without-rows" not in page
    markdown = (tmp_path / "report" / "README.md").read_text()
    own = markdown.split("## An added section\n")[1].split("\n## ")[0]
    for text in (
        "How to read it.",
        "some words",
        "### Table first",
        "| x&lt;y | 1 |",
        "Table left",
    ):
        assert text in own, text
    assert "- It is worse (for a reason)" in own
    assert "svg" not in own


def test_every_section_of_a_full_report_has_an_anchor_and_a_heading(tmp_path):
    write_report(tmp_path / "report", write_stages(tmp_path / "stages", samples=8))
    page = (tmp_path / "report" / "index.html").read_text()
    nav = page.split('<nav aria-label="Sections">')[1].split("</nav>")[0]
    anchors = re.findall(r'href="#([a-z-]+)"', nav)
    assert anchors == re.findall(r'<section id="([a-z-]+)"', page)
    assert anchors[0] == "verdict"
    assert anchors[-2:] == ["gallery", "provenance"]


def test_parts_with_nothing_to_show_are_left_out():
    empty = (table("t"), Figures(()), Findings("f", ()), Folded("s", ()), Columns(((), ())), None)
    assert present(*empty, Words(""), Code("")) == ()
