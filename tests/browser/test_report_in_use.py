"""The report as a reader uses it: opened, on a phone, filtered, walked through by keys."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from windows import DESKTOP, WINDOWS

sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
from synthetic_stages import write_stages

from limbeck.report.write import write_report

pytestmark = pytest.mark.slow

HOSTILE = [
    "<script>document.title='owned'</script>",
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<svg onload=\"document.title='owned'\"><a href=\"javascript:document.title='owned'\">x</a>",
    "quotes \" ' ` & needle {{ 7 * 7 }} ${7 * 7}",
    "\u202eright to left\u202c and \u05e9\u05dc\u05d5\u05dd",
    "x" * 1_000_000,
    "word " * 200_000,
]
LOAD_LIMIT_SECONDS = 2.0


def made(folder: Path, **options) -> Path:
    write_report(folder / "report", write_stages(folder / "stages", **options))
    return folder / "report" / "index.html"


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("used"), samples=128, gallery=128)


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Path:
    return made(tmp_path_factory.mktemp("large"), samples=2000, gallery=2000)


def opened(chromium, path: Path, state: str = "", **window):
    """The page, and a list that collects what the console complains of."""
    page = chromium.new_context(**{"viewport": DESKTOP, **window}).new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda r: r.url.startswith(("file:", "data:")) or page.complaints.append(r))
    page.goto(path.as_uri() + state)
    return page


def violations(page) -> list[str]:
    """What axe finds, a line for each rule with the first element that breaks it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]})
    return [
        f"{one['id']}: {one['help']} ({len(one['nodes'])}): {one['nodes'][0]['html'][:200]}"
        for one in found.response["violations"]
    ]


@pytest.mark.parametrize("window", WINDOWS)
def test_the_report_passes_the_accessibility_check(chromium, report, window):
    page = opened(chromium, report, bypass_csp=True, **WINDOWS[window])
    page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    page.select_option("[name=view]", "diff")
    page.wait_for_timeout(300)
    assert violations(page) == []


@pytest.mark.parametrize("window", WINDOWS)
def test_no_part_of_the_page_is_wider_than_the_window(chromium, report, window):
    page = opened(chromium, report, **WINDOWS[window])
    for view in ("all", "diff"):
        page.select_option("[name=view]", view)
        page.wait_for_timeout(200)
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.complaints == []


def test_two_thousand_samples_open_within_two_seconds(chromium, large):
    seconds = []
    for _ in range(3):  # the machine may be busy with something else for a moment
        page = opened(chromium, large)
        timing = "performance.getEntriesByType('navigation')[0].loadEventEnd"
        page.wait_for_function(f"{timing} > 0")
        seconds.append(page.evaluate(timing) / 1000)
        assert page.inner_text("#found") == "Showing 1-20 of 2000 samples."
        page.context.close()
    assert min(seconds) < LOAD_LIMIT_SECONDS


def test_two_thousand_samples_are_filtered_and_sorted_without_a_pause(chromium, large):
    page = opened(chromium, large)
    longest = page.evaluate(
        """async () => {
          const steps = Object.entries({ sort: "gap", differ: "answers", q: "save", view: "diff" });
          let longest = 0;
          for (const [name, value] of steps) {
            const field = document.querySelector(`[name=${name}]`);
            field.value = value;
            const started = performance.now();
            field.dispatchEvent(new Event("input", { bubbles: true }));
            await new Promise((done) => setTimeout(done, 125));
            longest = Math.max(longest, performance.now() - started - 125);
          }
          return longest;
        }"""
    )
    assert longest < 1000
    assert page.evaluate("document.querySelectorAll('*').length") < 5000
    assert page.evaluate("[...document.images].every((i) => i.loading === 'lazy')")


def test_disagreement_filters_by_answer_and_by_score(chromium, report):
    page = opened(chromium, report)
    samples = json.loads(page.text_content("#gallery-data"))["samples"]
    wanted = {
        "answers": [s for s in samples if s["answers"][1]["text"] != s["answers"][0]["text"]],
        "same": [s for s in samples if s["answers"][1]["text"] == s["answers"][0]["text"]],
        "behind": [s for s in samples if s["scores"][1][0] < s["scores"][0][0]],
        "ahead": [s for s in samples if s["scores"][1][0] > s["scores"][0][0]],
        "even": [s for s in samples if s["scores"][1][0] == s["scores"][0][0]],
    }
    assert 0 < len(wanted["answers"]) < len(samples)
    for name, rows in wanted.items():
        page.select_option("[name=differ]", name)
        page.wait_for_timeout(200)
        shown = page.eval_on_selector_all("article", "all => all.map((a) => a.dataset.sample)")
        assert shown == [row["id"] for row in rows][:20], name


def test_the_two_answers_stand_side_by_side_with_their_own_words_marked(chromium, report):
    page = opened(chromium, report, "#view=diff&differ=answers&sort=gap")
    card = page.locator("article").first
    assert card.locator(".answer[data-model]").count() == 2
    left, right = (card.locator(".answer[data-model] .text").nth(i).inner_text() for i in (0, 1))
    gone = card.locator("del").all_inner_texts()
    new = card.locator("ins").all_inner_texts()
    assert gone
    assert new
    assert set(gone) <= set(left.split())
    assert set(new) <= set(right.split())
    shared = [word for word in left.split() if word not in gone]
    assert shared == [word for word in right.split() if word not in new]
    boxes = [card.locator(".answer[data-model]").nth(i).bounding_box() for i in (0, 1)]
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] < boxes[1]["x"]


def test_the_gallery_is_walked_through_by_keys(chromium, report):
    page = opened(chromium, report)
    at = "document.activeElement.dataset.sample"
    page.focus("article")
    assert page.evaluate(at) == "screen-00000"
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("k")
    assert page.evaluate(at) == "screen-00001"
    page.keyboard.press("ArrowRight")
    assert page.evaluate(at) == "screen-00020"
    page.keyboard.press("k")
    assert page.evaluate(at) == "screen-00019"
    page.keyboard.press("j")
    assert page.evaluate(at) == "screen-00020"
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert page.inner_text("#found").startswith("Showing 1-20")
    page.fill("[name=q]", "jk")
    assert page.input_value("[name=q]") == "jk"


def test_all_controls_are_reached_by_tab(chromium, report):
    page = opened(chromium, report)
    reached = set()
    for _ in range(200):
        page.keyboard.press("Tab")
        reached.add(
            page.evaluate(
                "(() => { const e = document.activeElement;"
                " return e.id || e.name || e.dataset.sample || e.hash || e.textContent; })()"
            )
        )
    assert {"theme", "q", "metric", "sort", "differ", "view", "Reset", "screen-00000"} <= reached
    assert {"#verdict", "#failures", "#gallery"} <= reached


def test_a_failing_group_and_a_failing_sample_lead_to_the_gallery(chromium, report):
    page = opened(chromium, report)
    page.click("#table-failing-groups tbody a >> nth=0")
    page.wait_for_timeout(100)
    category = page.input_value("[name=category]")
    assert category.startswith("title: ")
    assert page.input_value("[name=sort]") == "behind"
    facts = page.locator("article .facts").all_text_contents()
    assert facts
    assert all(category in fact for fact in facts)
    sample = page.inner_text("#table-failing-samples tbody a >> nth=0")
    page.click("#table-failing-samples tbody a >> nth=0")
    page.wait_for_timeout(100)
    assert page.get_attribute("article", "data-sample") == sample
    assert page.evaluate("document.getElementById('gallery').getBoundingClientRect().top") < 100


@pytest.mark.parametrize("window", ["desktop", "phone"])
def test_a_mark_of_a_plot_shows_its_values(chromium, report, window):
    page = opened(chromium, report, **WINDOWS[window])
    mark = page.locator("#trade-off svg g.mark.arm-student").first
    mark.scroll_into_view_if_needed()
    if window == "phone":
        mark.locator(".dot").tap(force=True)
    else:
        mark.locator(".dot").hover(force=True)
    tip = page.locator("#tip")
    assert tip.is_visible()
    assert tip.inner_text().startswith("student: 0.")


@pytest.mark.parametrize("window", ["desktop", "phone"])
def test_hostile_texts_do_nothing_and_the_page_stays_usable(chromium, tmp_path, window):
    inputs = write_stages(tmp_path / "stages", samples=24, texts=HOSTILE)
    scores = json.loads((inputs.evaluation / "scores.json").read_text())
    scores["groups"]["title"]["<img src=x onerror=\"document.title='owned'\">"] = {}
    scores["warnings"] = ["<script>document.title='owned'</script>"]
    (inputs.evaluation / "scores.json").write_text(json.dumps(scores))
    for model in ("student-seed0", "student-seed1"):
        path = inputs.evaluation / f"predictions-{model}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        for row, text in zip(rows, reversed(HOSTILE), strict=False):
            row["prediction"] = text
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        per_sample = json.loads((inputs.evaluation / "sample_scores.json").read_text())
        per_sample[model]["exact_match"][: len(HOSTILE)] = [-1.0] * len(HOSTILE)
        (inputs.evaluation / "sample_scores.json").write_text(json.dumps(per_sample))
    write_report(tmp_path / "report", inputs)
    page = opened(chromium, tmp_path / "report" / "index.html", "#view=diff", **WINDOWS[window])
    assert page.title() == "synthetic: distillation report"
    assert page.complaints == []
    assert page.evaluate("document.querySelectorAll('main script, main [onerror]').length") == 0
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert "<script>document.title='owned'</script>" in page.inner_text("#table-failing-samples")
    page.fill("[name=q]", "needle")
    page.wait_for_timeout(300)
    shown = page.eval_on_selector_all("article", "all => all.map((a) => a.dataset.sample)")
    assert sorted(shown) == ["screen-00003", "screen-00004"]
    page.select_option("[name=view]", "all")
    page.click("button[type=reset]")
    assert page.inner_text("#found") == "Showing 1-20 of 24 samples."
    assert page.title() == "synthetic: distillation report"
