"""The page of `limbeck compare` in a real Chromium: asked, given pictures, lied to, by keys."""

from __future__ import annotations

import io
import json
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from PIL import Image
from windows import DESKTOP, WINDOWS

sys.path.insert(0, str(Path(__file__).parents[1] / "compare"))
from finished_recipe import finished

from limbeck.compare.answering import Answerers, Reply
from limbeck.compare.models import comparison_of
from limbeck.compare.server import serving
from limbeck.compare.terminal import cost_line

pytestmark = pytest.mark.slow

MODELS = ["teacher", "baseline", "student"]
HOSTILE = (
    "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "<svg onload=\"document.title='owned'\"></svg>\u202eright to left " + "x" * 100_000
)
SVG = b"<svg xmlns='http://www.w3.org/2000/svg' onload=\"document.title='owned'\"/>"


def picture(kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (96, 128), "navy").save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory, varied_model):
    return finished(tmp_path_factory.mktemp("compare") / "work", varied_model)


@pytest.fixture(scope="module")
def server(recipe):
    comparison = comparison_of(recipe, MODELS)
    with Answerers(recipe, comparison) as models, serving(recipe, models) as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def opened(chromium, server, **window):
    """The page once its samples are there, and what the console complained of or asked abroad."""
    page = chromium.new_context(**{"viewport": DESKTOP, **window}).new_page()
    page.complaints = []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    own = (server.url, "blob:", "data:")
    page.on("request", lambda r: r.url.startswith(own) or page.complaints.append(r.url))
    page.goto(server.url)
    page.wait_for_selector("#models article")
    return page


def ask(page) -> list[str]:
    """Ask all models by the button; what they answered."""
    page.click("#ask")
    answered(page)
    return page.locator("#models article p").all_text_contents()


def answered(page) -> None:
    """Wait for all models; not by a function, which the page's policy would not let run."""
    page.wait_for_selector("#models:not(:has(.waiting))", timeout=120_000)


def says(page, place: str, part: str) -> None:
    """Wait for an element to hold a text."""
    page.locator(place, has_text=part).wait_for()


def answering(monkeypatch, text: str) -> None:
    """Let every model answer with this text at once."""
    monkeypatch.setattr(
        Answerers, "answer", lambda *_: Reply(text, 3, True, None, 0.01, 90.0, "process RSS")
    )


def violations(page) -> list[str]:
    """What axe finds, a line for each rule with the first element that breaks it."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    found = axe.run(page, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21aa", "best-practice"]})
    return [
        f"{one['id']}: {one['help']} ({len(one['nodes'])}): {one['nodes'][0]['html'][:200]}"
        for one in found.response["violations"]
    ]


def test_a_sample_is_answered_by_every_model_as_it_was_scored(chromium, server, recipe):
    page = opened(chromium, server)
    page.click("#next")
    assert page.input_value("#number") == "2"
    answers = ask(page)
    direct = [server.models.answer(name, server.samples[1]) for name in MODELS]
    assert answers == [reply.text or "(an empty answer)" for reply in direct]
    costs = page.locator("#models article small").all_inner_texts()
    assert all(" ms" in text and "process RSS" in text for text in costs)
    assert len(costs) == 3
    assert cost_line(direct[0]).rpartition(" (")[2] in costs[0]
    assert page.inner_text("#references li") == server.samples[1].references[0]
    assert page.evaluate("document.querySelector('#pictures img').naturalWidth") > 0
    assert page.complaints == []


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_of_the_users_is_shown_and_answered(chromium, server, kind):
    page = opened(chromium, server)
    file = {"name": f"mine.{kind}", "mimeType": f"image/{kind.lower()}", "buffer": picture(kind)}
    page.set_input_files("#file", file)
    says(page, "#sample", "96 × 128")
    assert page.evaluate("document.querySelector('#pictures img').naturalWidth") == 96
    assert page.inner_text("#references") == ""
    page.fill("#text", "How many buttons?")
    asked = []
    page.on("request", lambda r: r.url.endswith("/answers") and asked.append(r.post_data))
    answers = ask(page)
    assert len(answers) == 3
    assert page.locator("#models .failed").count() == 0
    assert {json.loads(body)["question"] for body in asked} == {"How many buttons?"}
    assert all("picture" in json.loads(body) for body in asked)
    assert page.complaints == []


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"name": "x.svg", "mimeType": "image/svg+xml", "buffer": SVG}, "image/svg+xml is no"),
        ({"name": "x.png", "mimeType": "image/png", "buffer": SVG}, "the upload: "),
        ({"name": "x.png", "mimeType": "image/png", "buffer": picture()[:60]}, "the upload"),
        ({"name": "x", "mimeType": "", "buffer": b"x"}, "no picture that is opened"),
        ({"name": "x.png", "mimeType": "image/png", "buffer": bytes(21 * 2**20)}, "at most 20"),
    ],
)
def test_what_is_no_picture_is_refused_and_the_sample_stays(chromium, server, file, message):
    page = opened(chromium, server)
    page.set_input_files("#file", file)
    says(page, "#message", message)
    assert page.inner_text("#sample").endswith(f"1 of {len(server.samples)}")
    assert page.evaluate("document.querySelector('#pictures img').naturalWidth") > 0
    assert page.title() == "tiny: compare"


def test_a_hostile_answer_is_text_and_breaks_nothing(chromium, server, monkeypatch):
    answering(monkeypatch, HOSTILE)
    page = opened(chromium, server, **WINDOWS["phone"])
    assert ask(page) == [HOSTILE] * 3
    page.wait_for_timeout(200)
    assert page.title() == "tiny: compare"
    assert page.locator("#models script, #models img, #models svg").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.complaints == []


def test_a_model_that_fails_says_so_and_the_others_answer(chromium, server, monkeypatch):
    def answer(_, name, __):
        failure = "the picture does not fit" if name == "baseline" else None
        return Reply("fine", 3, True, failure, 0.01, None, None)

    monkeypatch.setattr(Answerers, "answer", answer)
    page = opened(chromium, server)
    assert ask(page) == ["fine", "the picture does not fit", "fine"]
    assert page.locator("#models .failed p").inner_text() == "the picture does not fit"
    assert page.is_enabled("#ask")


def test_another_sample_while_models_answer_gets_none_of_the_old_answers(
    chromium, server, monkeypatch
):
    going, first = threading.Event(), server.samples[0].id

    def answer(_, __, sample):
        if sample.id == first:
            going.wait(20)
        return Reply(f"about {sample.id}", 3, True, None, 0.01, None, None)

    monkeypatch.setattr(Answerers, "answer", answer)
    page = opened(chromium, server)
    page.click("#ask")
    says(page, "#message", "Asking")
    page.click("#next")
    answers = ask(page)
    going.set()
    page.wait_for_timeout(300)
    assert answers == [f"about {server.samples[1].id}"] * 3
    assert page.locator("#models article p").all_text_contents() == answers


def test_everything_can_be_reached_and_done_by_keys(chromium, server, monkeypatch):
    answering(monkeypatch, "fine")
    page = opened(chromium, server)
    wanted = ["#answers", "previous", "number", "next", "random", "file", "text", "ask"]
    reached = []
    for _ in wanted:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.hash"))
        style = "getComputedStyle(document.activeElement)"
        ring = page.evaluate(
            f"{style}.outlineStyle !== 'none' || {style}.boxShadow !== 'none' || "
            "getComputedStyle(document.activeElement.closest('label') || document.activeElement)"
            ".outlineStyle !== 'none'"
        )
        assert ring, f"{reached[-1]} shows no focus"
    assert reached == wanted
    page.focus("#ask")
    page.keyboard.press("Enter")
    answered(page)
    page.focus("#next")
    page.keyboard.press("Space")
    assert page.input_value("#number") == "2"


@pytest.mark.parametrize("window", WINDOWS)
def test_the_page_passes_the_accessibility_check_and_fits(chromium, server, monkeypatch, window):
    answering(monkeypatch, "Login screen of a book app. Elements: idle tab music.")
    page = opened(chromium, server, bypass_csp=True, **WINDOWS[window])
    assert violations(page) == []
    page.fill("#text", "How many buttons?")
    ask(page)
    assert page.is_visible("#reset")
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0


def test_a_foreign_site_is_refused_without_a_complaint_of_the_server(server, monkeypatch):
    complaints = []
    monkeypatch.setattr(server, "handle_error", lambda *_: complaints.append(sys.exc_info()[1]))
    for headers in ({"Origin": "https://elsewhere.example"}, {"Host": "elsewhere.example"}):
        request = urllib.request.Request(server.url, headers=headers)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(request, timeout=10)
        assert caught.value.code == 403
    assert complaints == []
