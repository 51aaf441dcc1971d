"""Timing served models: a server in this process streams tokens at known times."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from chat_server import Body, ChatServer, Sent, completion, streamed
from limbeck.benchmark.served import benchmark_served
from limbeck.errors import DataError, StoppedError, TeacherError
from limbeck.recipe.sections import Benchmark
from limbeck.teachers.openai import OpenAI

SETTINGS = Benchmark(samples=3, repeats=2, warmup=2, new_tokens=6, max_new_tokens=20)
NATURAL_TOKENS = 4
FIRST, EACH = 0.080, 0.020


class Streaming:
    """80 ms to the first token, 20 ms a further one; the first `cold` requests ten times that."""

    def __init__(self, *, keeps: str = "ignore_eos", cold: int = 0, **options: Any) -> None:
        self.keeps, self.cold, self.options = keeps, cold, options
        self.bodies: list[Body] = []
        self.headers: list[dict[str, str]] = []
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    def __call__(self, body: Body, headers: dict[str, str]) -> Sent:
        with self._lock:
            self.bodies.append(body)
            self.headers.append(headers)
            slow = 10 if len(self.bodies) <= self.cold else 1
        if refused := {"generation_config"} & body.keys() - {self.keeps}:
            return Sent({"detail": f"Unexpected fields in the request: {refused}"}, status=422)
        count = body["max_tokens"] if self.keeps in body else NATURAL_TOKENS
        pieces = [f"w{n} " for n in range(min(count, body["max_tokens"]))]
        times = {"first_seconds": FIRST * slow, "each_seconds": EACH * slow}
        return streamed(pieces, **{**times, **self.options})


def server(chat: ChatServer, **fields: Any) -> OpenAI:
    given = {"base_url": chat.url, "model": "m", "concurrency": 4, "max_retries": 1, **fields}
    return OpenAI.model_validate(given)


def timed(model: Any, screens: Path, output: Path, settings: Benchmark = SETTINGS, **fields: Any):
    with ChatServer(model) as chat:
        benchmark_served(
            server(chat, **fields), settings, screens, output, responses=output / "paid", job="j"
        )
    return json.loads((output / "results.json").read_text())


def by_name(results: dict[str, Any], regime: str) -> dict[str, Any]:
    return {one["name"]: one for one in results["measurements"] if one["regime"] == regime}


def values(found: dict[str, Any]) -> dict[str, float]:
    return {name: one["value"] for name, one in found.items()}


@pytest.fixture(scope="module")
def measured(screens: Path, tmp_path_factory: pytest.TempPathFactory):
    model = Streaming(cold=3)
    prices = {"price_per_million_prompt_tokens": 2.0, "price_per_million_answer_tokens": 10.0}
    return model, timed(model, screens, tmp_path_factory.mktemp("served"), **prices)


def test_known_times_are_measured_within_a_tenth_and_the_warm_up_excluded(measured) -> None:
    found = values(by_name(measured[1], "served/natural_length/concurrency_1"))
    assert found["time_to_first_token_ms"] == pytest.approx(80, rel=0.1)
    assert found["inter_token_ms"] == pytest.approx(20, rel=0.1)
    assert found["latency_ms"] == pytest.approx(140, rel=0.1)
    assert found["latency_p95_ms"] < 300, "a cold request takes 1.4 s"
    assert found["new_tokens_mean"] == NATURAL_TOKENS
    assert found["throughput_samples_per_second"] == pytest.approx(1 / 0.14, rel=0.15)
    assert found["preprocess_ms"] > 0


def test_fixed_lengths_are_kept_at_every_concurrency_and_throughput_grows(measured) -> None:
    results = measured[1]
    one = by_name(results, "served/fixed_length/concurrency_1")
    four = by_name(results, "served/fixed_length/concurrency_4")
    assert one["new_tokens_mean"]["value"] == four["new_tokens_mean"]["value"] == 6
    assert one["latency_ms"]["n"] == 6
    assert four["latency_ms"]["n"] == 8, "full rounds of four"
    assert values(one)["latency_ms"] == pytest.approx(180, rel=0.1)
    together = values(four)["throughput_samples_per_second"]
    assert together > 2.5 * values(one)["throughput_samples_per_second"]
    tokens = values(four)["throughput_tokens_per_second"]
    assert tokens == pytest.approx(6 * together)
    assert one["latency_ms"]["spread"] == "p5-p95"


def test_what_it_costs_is_computed_from_the_servers_own_counts(measured) -> None:
    model, results = measured
    found = by_name(results, "served/natural_length/concurrency_1")
    price = 1000 * (50 * 2 + NATURAL_TOKENS * 10) / 1e6
    assert found["cost_per_thousand_samples"]["value"] == pytest.approx(price)
    usage = results["served"]["usage"]
    assert usage["requests"] == len(model.bodies)
    assert usage["cost"] > 0


def test_nothing_is_claimed_of_what_only_the_server_knows(measured, screens: Path) -> None:
    model, results = measured
    for name in ("parameters", "disk_bytes", "precision", "memory_kind"):
        assert results[name] is None
    assert "machine" not in results
    assert results["client"]["cores"] >= 1
    assert results["served"]["network"].startswith("included")
    assert results["served"]["says"] == {"model": "m-2026"}
    assert results["prompt_tokens_mean"] == 50
    assert not any("memory" in one["name"] for one in results["measurements"])
    assert all(one["regime"].startswith("served/") for one in results["measurements"])
    assert all(body["stream"] for body in model.bodies)
    assert all("image_url" in json.dumps(body) for body in model.bodies), "real pictures"


def test_a_server_of_transformers_is_asked_in_its_own_way(screens: Path, tmp_path: Path) -> None:
    found = timed(Streaming(keeps="generation_config"), screens, tmp_path)
    one = by_name(found, "served/fixed_length/concurrency_1")
    assert one["new_tokens_mean"]["value"] == 6


def test_a_server_that_ends_answers_itself_gets_natural_lengths_and_a_note(
    screens: Path, tmp_path: Path
) -> None:
    found = timed(Streaming(keeps="nothing"), screens, tmp_path)
    regimes = dict.fromkeys(one["regime"] for one in found["measurements"])
    assert list(regimes) == [
        "served/natural_length/concurrency_1",
        "served/natural_length/concurrency_4",
    ]
    assert any("hold back the end token" in note for note in found["served"]["notes"])


def test_vllm_never_finds_a_prefix_of_an_earlier_request(screens: Path, tmp_path: Path) -> None:
    model = Streaming()
    timed(model, screens, tmp_path, server="vllm")
    salts = [body["cache_salt"] for body in model.bodies]
    assert len(set(salts)) == len(salts)
    plain = Streaming()
    notes = timed(plain, screens, tmp_path / "plain")["served"]["notes"]
    assert not any("cache_salt" in body for body in plain.bodies)
    assert any("answers repeated samples faster" in note for note in notes)


def test_without_counts_there_are_no_rates_of_tokens(screens: Path, tmp_path: Path) -> None:
    found = timed(Streaming(usage=False), screens, tmp_path)
    names = {one["name"] for one in found["measurements"]}
    assert "time_to_first_token_ms" in names
    assert not {"new_tokens_mean", "throughput_tokens_per_second", "inter_token_ms"} & names
    assert any("does not count tokens" in note for note in found["served"]["notes"])


def test_a_server_that_does_not_stream_has_a_latency_only(screens: Path, tmp_path: Path) -> None:
    def whole(body: Body, headers: dict[str, str]) -> Sent:
        return Sent(completion("an answer of five words"), seconds=0.05)

    found = timed(whole, screens, tmp_path)
    one = by_name(found, "served/natural_length/concurrency_1")
    assert 50 <= one["latency_ms"]["value"] < 200
    assert "time_to_first_token_ms" not in one
    assert any("piece by piece" in note for note in found["served"]["notes"])


def test_a_server_that_refuses_options_of_streams_is_asked_without(
    screens: Path, tmp_path: Path
) -> None:
    model = Streaming()

    def strict(body: Body, headers: dict[str, str]) -> Sent:
        if "stream_options" in body:
            return Sent({"error": {"message": "unknown field stream_options"}}, status=400)
        return model(body, headers)

    assert timed(strict, screens, tmp_path)["measurements"]


def test_faults_are_repeated_and_said_and_broken_streams_are_no_answers(
    screens: Path, tmp_path: Path
) -> None:
    model, calls = Streaming(), iter(range(10_000))

    def faulty(body: Body, headers: dict[str, str]) -> Sent:
        sent = model(body, headers)
        number = next(calls)
        if number == 7:
            return Sent(events=(*sent.events[:3], (0.0, '{"error": "out of memory"}')))
        if number == 9:
            return Sent(events=sent.events[:3])
        return sent

    found = timed(faulty, screens, tmp_path)
    assert found["served"]["usage"]["retries"] == 2
    assert any("2 requests had to be repeated" in note for note in found["served"]["notes"])
    latency = by_name(found, "served/natural_length/concurrency_1")["latency_ms"]
    assert latency["n"] == 6
    assert latency["high"] < 250, "the time of a failed attempt is not in it"


def test_the_cap_stops_it_and_counts_earlier_runs(screens: Path, tmp_path: Path) -> None:
    model = Streaming()
    with ChatServer(model) as chat:
        capped = server(chat, max_requests=9)
        arguments = (SETTINGS, screens, tmp_path)
        options = {"responses": tmp_path / "paid", "job": "benchmark"}
        with pytest.raises(TeacherError, match="9 are allowed"):
            benchmark_served(capped, *arguments, **options)
        assert len(model.bodies) == 9
        with pytest.raises(TeacherError, match="9 are allowed"):
            benchmark_served(capped, *arguments, **options)
        assert len(model.bodies) == 9
    assert not (tmp_path / "results.json").exists()
    rows = "".join(path.read_text() for path in (tmp_path / "paid").rglob("answers-*.jsonl"))
    assert rows.count("\n") == 9
    assert '"reply"' not in rows, "a timed answer answers no later call"


def test_the_key_is_sent_and_written_nowhere(
    screens: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SERVED_KEY", "sk-very-secret")
    model = Streaming()

    def repeats_it(body: Body, headers: dict[str, str]) -> Sent:
        sent = model(body, headers)
        told = {"model": "sk-very-secret", "choices": [{"delta": {"content": "sk-very-secret"}}]}
        return Sent(events=((0.0, told), *sent.events))

    timed(repeats_it, screens, tmp_path, api_key_env="SERVED_KEY")
    assert {headers["authorization"] for headers in model.headers} == {"Bearer sk-very-secret"}
    written = "".join(p.read_text() for p in tmp_path.rglob("*") if p.is_file())
    assert "very-secret" not in written


def test_no_server_and_no_samples_are_errors(screens: Path, tmp_path: Path) -> None:
    nowhere = OpenAI.model_validate(
        {"base_url": "http://127.0.0.1:9/v1", "model": "m", "max_retries": 0}
    )
    options = {"responses": None, "job": "j"}
    with pytest.raises(TeacherError, match="no connection"):
        benchmark_served(nowhere, SETTINGS, screens, tmp_path, **options)
    with pytest.raises(DataError, match="nowhere"):
        benchmark_served(nowhere, Benchmark(split="nowhere"), screens, tmp_path, **options)


def test_a_signal_ends_it_and_nothing_more_is_sent(screens: Path, tmp_path: Path) -> None:
    import os
    import signal

    model = Streaming()
    slow = Benchmark(samples=3, repeats=1000, warmup=0, new_tokens=6, max_new_tokens=20)
    threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGTERM)).start()
    with ChatServer(model) as chat:
        with pytest.raises(StoppedError):
            benchmark_served(
                server(chat), slow, screens, tmp_path, responses=tmp_path / "paid", job="j"
            )
        sent = len(model.bodies)
        time.sleep(0.4)
        assert len(model.bodies) == sent
    assert not (tmp_path / "results.json").exists()
