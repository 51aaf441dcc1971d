"""The web page of `limbeck compare` on a hostile network (RELIABILITY 27)."""

from __future__ import annotations

import http.client
import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from limbeck.compare.answering import Answerers, BusyError, Reply
from limbeck.compare.models import Compared, Comparison
from limbeck.compare.server import MAX_UPLOAD_BYTES, UPLOADS_KEPT, CompareServer, serving
from limbeck.errors import TeacherError, UsageError
from limbeck.recipe import recipe_from
from limbeck.records import Sample

HOSTILE = "<script>alert('\u202e\"&')</script>"


class Echo:
    """Answers with what it is asked, in place of models in processes of their own."""

    def __init__(self, data: Path) -> None:
        local = SimpleNamespace(model=object())
        model = Compared("student", "student-seed1", cast(Any, local), {}, "cpu", data)
        self.comparison = Comparison((model,), data)
        self.asked: list[Sample] = []

    def answer(self, name: str, sample: Sample) -> Reply:
        self.asked.append(sample)
        text = sample.messages[-1]["content"][-1]["text"]
        if text == "fail":
            raise TeacherError("it broke")
        if text == "busy":
            raise BusyError("too many")
        return Reply(text, 3, True, None, 0.25, 100.0, "process RSS")


@pytest.fixture
def served(screens: Path) -> Iterator[tuple[CompareServer, Echo]]:
    recipe = recipe_from(
        {
            "name": "tiny",
            "data": {"source": "screens"},
            "teacher": {"backend": "transformers", "model": "nowhere"},
            "student": {"model": "nowhere"},
            "losses": [{"kind": "cross_entropy"}],
        }
    )
    echo = Echo(screens)
    with serving(recipe, cast(Answerers, echo)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server, echo
        server.shutdown()
        thread.join()


def ask(
    server: CompareServer, method: str, path: str, body: Any = None, **headers: str
) -> tuple[int, Any, dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    if isinstance(body, dict | list):
        body = json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        content = response.read()
    finally:
        connection.close()
    kind = response.headers.get_content_type()
    found = json.loads(content) if kind == "application/json" else content
    return response.status, found, dict(response.headers)


def png(size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, "teal").save(buffer, "PNG")
    return buffer.getvalue()


def test_it_listens_on_loopback_unless_told_otherwise(served: Any) -> None:
    assert served[0].server_address[0] == "127.0.0.1"


def test_pages_allow_no_script_but_their_own(served: Any) -> None:
    for path in ("/", "/script.js", "/style.css", "/comparison.json", "/nothing"):
        _, _, headers = ask(served[0], "GET", path)
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
    assert b"<script src=" in ask(served[0], "GET", "/")[1]


def test_a_sample_and_its_picture_are_served(served: Any, screens: Path) -> None:
    server, echo = served
    _, about, _ = ask(server, "GET", "/comparison.json")
    assert [model["id"] for model in about["models"]] == ["student-seed1"]
    assert len(about["samples"]) == 8
    status, data, headers = ask(server, "GET", "/pictures/2/0")
    assert (status, headers["Content-Type"]) == (200, "image/png")
    assert data == (screens / server.samples[2].images[0].path).read_bytes()
    asked = {"model": "student", "sample": 2, "question": about["samples"][2]["question"]}
    status, reply, _ = ask(server, "POST", "/answers", asked)
    assert status == 200
    assert echo.asked == [server.samples[2]]
    assert "250 ms" in reply["cost"]


def test_an_upload_is_answered_about_and_hostile_text_comes_back_as_data(served: Any) -> None:
    server, echo = served
    status, kept, _ = ask(server, "POST", "/pictures", png(), Content_Type="image/png")
    assert (status, kept["width"], kept["height"]) == (200, 40, 30)
    asked = {"model": "student", "picture": kept["picture"], "question": HOSTILE}
    status, reply, headers = ask(server, "POST", "/answers", asked)
    assert (status, reply["text"]) == (200, HOSTILE)
    assert headers["Content-Type"] == "application/json"
    assert Path(echo.asked[0].images[0].path).parent == server.folder.resolve()


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("image/svg+xml", b"<svg/>", 415),
        ("text/html", b"<html>", 415),
        ("image/png", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 400),
        ("image/png", b"", 400),
        ("image/png", png()[:60], 400),
    ],
)
def test_what_is_no_picture_is_refused(served: Any, kind: str, body: bytes, status: int) -> None:
    found, reply, _ = ask(served[0], "POST", "/pictures", body, Content_Type=kind)
    assert found == status
    assert "\n" not in reply["error"]
    assert not served[0].uploads


def test_a_decompression_bomb_is_refused(served: Any) -> None:
    buffer = io.BytesIO()
    Image.new("1", (30_000, 30_000)).save(buffer, "PNG")
    status, reply, _ = ask(
        served[0], "POST", "/pictures", buffer.getvalue(), Content_Type="image/png"
    )
    assert status == 400
    assert "too large" in reply["error"]


def test_too_large_an_upload_is_refused_before_it_is_read(served: Any) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served[0].port, timeout=20)
    connection.putrequest("POST", "/pictures")
    connection.putheader("Content-Type", "image/png")
    connection.putheader("Content-Length", str(MAX_UPLOAD_BYTES + 1))
    connection.endheaders()  # and not one byte of it
    response = connection.getresponse()
    assert response.status == 413
    assert "20 MiB" in json.loads(response.read())["error"]
    connection.close()


@pytest.mark.parametrize("length", ["-1", "1e3", "١", "9" * 40, ""])
def test_a_length_that_is_none_is_refused(served: Any, length: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", served[0].port, timeout=20)
    connection.putrequest("POST", "/pictures")
    connection.putheader("Content-Type", "image/png")
    connection.putheader("Content-Length", length.encode())
    connection.endheaders()
    assert connection.getresponse().status in (411, 413)
    connection.close()


def test_only_the_newest_uploads_are_kept(served: Any) -> None:
    server, _ = served
    names = [server.keep(png((10 + n, 10)))["picture"] for n in range(UPLOADS_KEPT + 3)]
    assert list(server.uploads) == names[3:]
    assert len(list(server.folder.iterdir())) == UPLOADS_KEPT
    asked = {"model": "student", "picture": names[0], "question": "Gone?"}
    status, reply, _ = ask(server, "POST", "/answers", asked)
    assert status == 400
    assert "upload it again" in reply["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Host": "[broken"},
    ],
)
def test_another_sites_page_cannot_ask(served: Any, headers: dict[str, str]) -> None:
    asked = {"model": "student", "sample": 0, "question": "Steal?"}
    for method, path, body in (("POST", "/answers", asked), ("GET", "/comparison.json", None)):
        status, reply, _ = ask(served[0], method, path, body, **headers)
        assert status in (400, 403)
        assert set(reply) == {"error"}
    assert not served[1].asked


def test_a_form_of_another_site_cannot_ask_without_being_seen(served: Any) -> None:
    status, _, _ = ask(
        served[0], "POST", "/answers", b'{"model": "student"}', Content_Type="text/plain"
    )
    assert status == 415


@pytest.mark.parametrize(
    "asked",
    [
        [],
        {},
        {"model": "other", "sample": 0, "question": "?"},
        {"model": ["student"], "sample": 0, "question": "?"},
        {"model": "student", "sample": -1, "question": "?"},
        {"model": "student", "sample": True, "question": "?"},
        {"model": "student", "sample": "0", "question": "?"},
        {"model": "student", "sample": 0},
        {"model": "student", "sample": 0, "question": 5},
        {"model": "student", "sample": 0, "question": " "},
        {"model": "student", "picture": ["x"], "question": "?"},
        {"model": "student", "picture": "../../etc/passwd", "question": "?"},
    ],
)
def test_nonsense_is_refused_in_one_line(served: Any, asked: Any) -> None:
    status, reply, _ = ask(served[0], "POST", "/answers", asked)
    assert status == 400
    assert reply["error"]
    assert "\n" not in reply["error"]
    assert not served[1].asked


@pytest.mark.parametrize(
    "path", ["/pictures/0/9", "/pictures/99999999999999999999/0", "/pictures/../0", "/etc/passwd"]
)
def test_nothing_but_the_samples_pictures_can_be_read(served: Any, path: str) -> None:
    assert ask(served[0], "GET", path)[0] in (400, 404)


def test_a_model_that_fails_leaves_the_page_usable(served: Any) -> None:
    server, _ = served
    fails, busy = (
        ask(server, "POST", "/answers", {"model": "student", "sample": 0, "question": text})
        for text in ("fail", "busy")
    )
    assert (fails[0], fails[1]["error"]) == (502, "it broke")
    assert busy[0] == 503
    assert ask(server, "GET", "/")[0] == 200


def test_a_port_that_is_taken_is_said_with_the_mend(served: Any) -> None:
    server, echo = served
    recipe = SimpleNamespace(name="tiny", evaluate=SimpleNamespace(split="test"))
    with (
        pytest.raises(UsageError, match="--port"),
        serving(cast(Any, recipe), cast(Answerers, echo), port=server.port),
    ):
        pass
