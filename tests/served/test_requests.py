"""What is sent: turns, pictures, decoding, and how fast."""

from __future__ import annotations

import base64
import dataclasses
import io
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from chat_server import Body, ChatServer, Sent, completion
from limbeck.data.samples import read_samples
from limbeck.errors import DataError
from limbeck.records import Sample
from limbeck.teachers import Decoding, Request
from limbeck.teachers.openai import OpenAI


class Recorder(ChatServer):
    def __init__(self) -> None:
        self.bodies: list[Body] = []
        self.running, self.most = 0, 0
        self.times: list[float] = []
        super().__init__(self._respond)

    def _respond(self, body: Body, headers: dict[str, str]) -> Sent:
        with self.lock:
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(0.02)
        with self.lock:
            self.running -= 1
        return Sent(completion("fine"))


@pytest.fixture
def server() -> Iterator[Recorder]:
    with Recorder() as server:
        yield server


@pytest.fixture
def sample(screens: Path) -> Sample:
    return read_samples(screens, "train", 1)[0]


def ask(
    server: ChatServer, data: Path, samples: list[Sample], decoding: Decoding, **fields: Any
) -> None:
    section = OpenAI.model_validate({"base_url": server.url, "model": "m", **fields})
    session = section.open(data, device="cpu")
    session.generate(samples, decoding)
    session.close()


def picture(body: Body) -> Image.Image:
    (part,) = (p for p in body["messages"][0]["content"] if p["type"] == "image_url")
    head, _, data = part["image_url"]["url"].partition(";base64,")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == f"data:image/{image.format.lower()}"
    return image


def test_pictures_are_sent_as_they_are_scaled_or_blank(
    server: Recorder, screens: Path, sample: Sample
) -> None:
    original = Image.open(screens / sample.images[0].path).convert("RGB")
    ask(server, screens, [sample], Decoding(8))
    assert picture(server.bodies[-1]).tobytes() == original.tobytes()
    assert server.paths[-1] == "/v1/chat/completions"
    ask(server, screens, [sample], Decoding(8), max_pixels=1000, image_format="jpeg")
    small = picture(server.bodies[-1])
    assert (small.format, small.width * small.height <= 1000) == ("JPEG", True)
    ask(server, screens, [sample], Decoding(8, blank_images=True))
    blank = picture(server.bodies[-1])
    assert blank.size == original.size
    assert set(blank.getdata()) == {(128, 128, 128)}


def test_pictures_by_address_come_from_the_metadata(
    server: Recorder, screens: Path, sample: Sample
) -> None:
    named = dataclasses.replace(sample, metadata={"where": "https://example.org/1.png"})
    options = {"image_transport": "url", "image_url_field": "where"}
    ask(server, screens, [named], Decoding(8), **options)
    parts = server.bodies[-1]["messages"][0]["content"]
    assert parts[0] == {"type": "image_url", "image_url": {"url": "https://example.org/1.png"}}
    with pytest.raises(DataError, match=f"{sample.id}: .*'where' does not hold an address"):
        ask(server, screens, [sample], Decoding(8), **options)


def test_turns_are_sent_in_order_and_plain_text_as_a_string(
    server: Recorder, screens: Path, sample: Sample
) -> None:
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    longer = dataclasses.replace(sample, messages=(system, *sample.messages))
    ask(server, screens, [longer], Decoding(8))
    first, second = server.bodies[-1]["messages"]
    assert first == {"role": "system", "content": "Be brief."}
    assert [part["type"] for part in second["content"]] == ["image_url", "text"]


def test_decoding_and_extra_fields_are_sent(
    server: Recorder, screens: Path, sample: Sample
) -> None:
    ask(server, screens, [sample], Decoding(8))
    body = server.bodies[-1]
    assert set(body) == {"model", "messages", "max_tokens", "temperature"}
    assert (body["max_tokens"], body["temperature"]) == (8, 0)
    section = {
        "max_tokens_field": "max_completion_tokens",
        "extra_body": {"top_p": 0.5, "temperature": None},
    }
    ask(server, screens, [sample], Decoding(8, temperature=0.7, seed=3), **section)
    body = server.bodies[-1]
    assert {k: v for k, v in body.items() if k != "messages"} == {
        "model": "m",
        "max_completion_tokens": 8,
        "seed": 3,
        "top_p": 0.5,
    }


def test_several_answers_to_one_sample_are_several_requests_and_equal_ones_are_one(
    server: Recorder, screens: Path, sample: Sample, tmp_path: Path
) -> None:
    section = OpenAI(base_url=server.url, model="m")
    session = section.open(screens, device="cpu", responses=tmp_path, job="job")
    twin = dataclasses.replace(sample, id="twin")
    asked = [Request(sample, n) for n in range(3)] + [Request(twin, 0)]
    decoding = Decoding(8, temperature=1.0, seed=5)
    found = [r for requests, _ in session.stream([asked], decoding) for r in requests]
    session.close()
    assert sorted((r.sample.id, r.number) for r in found) == sorted(
        (r.sample.id, r.number) for r in asked
    )
    assert sorted(body["seed"] for body in server.bodies) == [5, 6, 7]


def different(sample: Sample, count: int) -> list[Sample]:
    def text(n: int) -> Any:
        return ({"role": "user", "content": [{"type": "text", "text": f"{n}?"}]},)

    return [
        dataclasses.replace(sample, id=str(n), messages=text(n), images=()) for n in range(count)
    ]


def test_no_more_than_the_concurrency_runs_at_once_and_all_of_it_does(
    server: Recorder, screens: Path, sample: Sample
) -> None:
    ask(server, screens, different(sample, 40), Decoding(8), concurrency=5)
    assert 3 <= server.most <= 5


def test_the_rate_is_kept(server: Recorder, screens: Path, sample: Sample) -> None:
    ask(server, screens, different(sample, 8), Decoding(8), requests_per_minute=1200)
    assert server.times[-1] - server.times[0] > 7 * 0.05 - 0.04


def test_a_rate_limit_holds_back_all_requests(screens: Path, sample: Sample) -> None:
    times: list[float] = []
    lock = threading.Lock()

    def respond(body: Body, headers: dict[str, str]) -> Sent:
        with lock:
            times.append(time.monotonic())
            if len(times) == 1:
                return Sent(b"", 429, {"Retry-After": "0.5"})
        time.sleep(0.05)
        return Sent(completion("fine"))

    with ChatServer(respond) as server:
        ask(server, screens, different(sample, 20), Decoding(8), concurrency=2)
    assert len(times) == 21
    early = [t for t in times if t - times[0] < 0.45]
    assert len(early) <= 3, "those on their way when the server said so"
