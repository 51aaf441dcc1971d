"""The report in a real Chromium: what it shows, filters and sorts, and what it must not execute."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from html import unescape
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from synthetic_stages import write_stages

from limbeck.report.write import write_report

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--enable-logging=stderr",
    "--virtual-time-budget=4000",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.exists(), reason="/usr/bin/chromium is not installed"),
]

HOSTILE = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "quotes \" ' ` & needle",
    "\u202eright to left\u202c and \u05e9\u05dc\u05d5\u05dd",
    "x" * 1_000_000,
]


def open_page(page: Path, state: str = "", *, width: int = 1280) -> tuple[str, str]:
    """The document after its scripts ran, and what the console said."""
    profile = page.parent / "profile"
    done = subprocess.run(
        [
            str(CHROMIUM),
            *FLAGS,
            f"--user-data-dir={profile}",
            f"--window-size={width},900",
            "--dump-dom",
            f"{page.resolve().as_uri()}{state}",
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    shutil.rmtree(profile, ignore_errors=True)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(console)


def shown(dom: str) -> list[str]:
    return [unescape(found) for found in re.findall(r'<article[^>]*data-sample="([^"]*)"', dom)]


def found_text(dom: str) -> str:
    return re.search(r'<p id="found"[^>]*>(.*?)</p>', dom)[1]


def probe(page: Path, script: str, *, width: int = 1280, state: str = "") -> dict:
    """Run a script inside a copy of the page whose policy allows it; it sets `result`."""
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text())
    wrapped = f"""<pre id="probe"></pre><script>(async () => {{ let result;
    const pause = (ms) => new Promise((done) => setTimeout(done, ms)); {script}
    document.getElementById("probe").textContent = JSON.stringify(result); }})();</script></body>"""
    copy = page.with_name("probe.html")
    copy.write_text(text.replace("</body>", wrapped))
    dom, console = open_page(copy, state, width=width)
    assert "Uncaught" not in console
    return json.loads(unescape(re.search(r'<pre id="probe">(.*?)</pre>', dom)[1]))


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(folder, write_stages(tmp_path_factory.mktemp("stages"), samples=256, gallery=256))
    return folder / "index.html"


@pytest.fixture(scope="module")
def sample_scores(report) -> dict:
    gallery = re.search(r'id="gallery-data">(.*?)</script>', report.read_text())[1]
    data = json.loads(gallery)
    return {sample["id"]: sample for sample in data["samples"]}


def test_the_page_opens_without_a_complaint_and_shows_the_first_samples(report):
    dom, console = open_page(report)
    assert console == ""
    assert shown(dom) == [f"screen-{i:05d}" for i in range(20)]
    assert found_text(dom) == "Showing 1-20 of 256 samples."
    assert '<form id="filters">' in dom


def test_a_link_with_a_search_shows_only_what_fits(report, sample_scores):
    dom, _ = open_page(report, "#q=checkout+slider")
    wanted = [
        name
        for name, sample in sample_scores.items()
        if all(w in json.dumps(sample).lower() for w in ("checkout", "slider"))
    ]
    assert wanted
    assert shown(dom) == wanted[:20]
    assert f"of {len(wanted)} samples (256 without the filter)" in found_text(dom)


def test_sorting_by_difference_puts_the_largest_first(report, sample_scores):
    dom, _ = open_page(report, "#metric=1&sort=gap&seed=1")
    gaps = {
        name: abs(sample["scores"][2][1] - sample["scores"][0][1])
        for name, sample in sample_scores.items()
    }
    found = [gaps[name] for name in shown(dom)]
    assert found == sorted(gaps.values(), reverse=True)[:20]
    assert found[0] > 0


def test_a_score_range_and_a_category_narrow_the_gallery(report, sample_scores):
    dom, _ = open_page(report, "#metric=1&max=0.9&category=title%3A+inbox")
    first = "inbox"
    wanted = [
        name
        for name, sample in sample_scores.items()
        if sample["scores"][1][1] <= 0.9 and sample["metadata"]["title"] == first
    ]
    assert shown(dom) == wanted[:20]


def test_pages_turn_and_nonsense_in_the_address_is_ignored(report):
    dom, console = open_page(report, "#page=2&model=nobody&metric=99&category=77&sort=bogus")
    assert shown(dom)[0] == "screen-00020"
    assert console == ""
    last, _ = open_page(report, "#page=9999")
    assert shown(last)[-1] == "screen-00255"


def test_typing_turning_and_resetting_work(report):
    found = probe(
        report,
        """
        const search = document.querySelector('input[name="q"]');
        const count = () => document.getElementById("found").textContent;
        search.value = "screen-00017";
        search.dispatchEvent(new Event("input", { bubbles: true }));
        await pause(400);
        result = { typed: count(), address: location.hash };
        document.querySelector('button[type="reset"]').click();
        result.reset = count();
        document.querySelector('[data-turn="1"]').click();
        result.turned = count();
        const sort = document.querySelector('select[name="sort"]');
        sort.value = "gap";
        sort.dispatchEvent(new Event("input", { bubbles: true }));
        await pause(400);
        const view = document.querySelector('select[name="view"]');
        view.value = "diff";
        view.dispatchEvent(new Event("input", { bubbles: true }));
        await pause(400);
        result.marks = document.querySelectorAll("ins, del").length;
        const before = getComputedStyle(document.body).backgroundColor;
        document.getElementById("theme").click();
        result.switched = before !== getComputedStyle(document.body).backgroundColor;
        """,
    )
    assert found["typed"].startswith("Showing 1-1 of 1")
    assert found["address"] == "#q=screen-00017"
    assert found["reset"] == "Showing 1-20 of 256 samples."
    assert found["turned"] == "Showing 21-40 of 256 samples."
    assert found["marks"] > 0
    assert found["switched"]


LAYOUT = """
    await pause(300);
    const all = (selector) => [...document.querySelectorAll(selector)];
    const named = (e) => e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim();
    const images = [...document.images];
    result = {
      overflow: document.documentElement.scrollWidth - innerWidth,
      broken: images.filter((i) => !i.naturalWidth).length,
      crisp: images.filter((i) => getComputedStyle(i).imageRendering === "pixelated").length,
      images: images.length,
      withoutAlt: images.filter((i) => !i.alt).length,
      unnamed: all("input, select, button, a").filter((e) => !named(e)).length,
      ids: all("[id]").map((e) => e.id),
      plots: all("svg[role=img]").filter((s) => !s.getAttribute("aria-label")).length,
      headings: all("h1, h2, h3").map((h) => +h.tagName[1]),
      targets: all('a[href^="#"]').filter((a) => !a.hash.includes("="))
        .filter((a) => !document.querySelector(a.hash)).length,
    };
"""


@pytest.mark.parametrize("width", [500, 1280])
def test_nothing_overflows_and_everything_has_a_name(report, width):
    found = probe(report, LAYOUT, width=width)
    assert found["overflow"] <= 0
    assert found["broken"] == found["withoutAlt"] == found["unnamed"] == found["plots"] == 0
    assert found["targets"] == 0
    assert found["crisp"] == found["images"] == 20
    assert len(set(found["ids"])) == len(found["ids"])
    steps = zip(found["headings"], found["headings"][1:], strict=False)
    assert found["headings"][0] == 1
    assert all(after - before <= 1 for before, after in steps)


def test_hostile_texts_neither_run_nor_break_the_page(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=12, texts=HOSTILE)
    write_report(tmp_path / "report", inputs)
    dom, console = open_page(tmp_path / "report" / "index.html")
    assert "<title>synthetic: distillation report</title>" in dom
    assert "owned" not in re.search(r"<title>(.*?)</title>", dom)[1]
    assert console == ""
    assert len(shown(dom)) == 12
    gallery = dom[dom.index('<div id="cards">') :]
    assert "&lt;script&gt;document.title='owned'&lt;/script&gt;" in gallery
    assert '<img src="x"' not in gallery
    found = probe(tmp_path / "report" / "index.html", LAYOUT, width=500)
    assert found["overflow"] <= 0
    only, _ = open_page(tmp_path / "report" / "index.html", "#q=needle")
    assert shown(only) == ["screen-00003"]


def test_two_thousand_samples_stay_usable(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=2000, gallery=2000)
    write_report(tmp_path / "report", inputs)
    found = probe(
        tmp_path / "report" / "index.html",
        """
        result = {
          text: document.getElementById("found").textContent,
          nodes: document.querySelectorAll("*").length,
        };
        """,
        state="#sort=gap",
    )
    assert found["text"] == "Showing 1-20 of 2000 samples."
    assert found["nodes"] < 5000
