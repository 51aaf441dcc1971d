"""A server that fails as servers do: no answer lost, none doubled, none paid for twice."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from chat_server import RETRIED, TAKEN, ChatServer, FaultyModel, Sent, completion, question
from limbeck.data.samples import read_samples
from limbeck.errors import TeacherError
from limbeck.records import Sample
from limbeck.teachers import Answer, Decoding, Request
from limbeck.teachers.openai import OpenAI

KEY = "sk-Very-Secret-0123456789"
DECODING = Decoding(32)


def teacher(server: ChatServer, **fields: Any) -> OpenAI:
    given = {"base_url": server.url, "model": "m", "timeout_seconds": 0.8, **fields}
    return OpenAI.model_validate({"concurrency": 32, **given})


def questions(screens: Path, count: int) -> list[Sample]:
    """Different questions about a few pictures."""
    known = read_samples(screens, "train")
    return [
        dataclasses.replace(
            known[n % len(known)],
            id=f"q{n}",
            messages=(
                {
                    "role": "user",
                    "content": [{"type": "image"}, {"type": "text", "text": f"Question {n}?"}],
                },
            ),
        )
        for n in range(count)
    ]


def answered(session: Any, samples: list[Sample]) -> dict[str, Answer]:
    found: dict[str, Answer] = {}
    batches = [
        [Request(sample) for sample in samples[i : i + 8]] for i in range(0, len(samples), 8)
    ]
    for requests, answers in session.stream(batches, DECODING):
        for request, answer in zip(requests, answers, strict=True):
            assert request.sample.id not in found, "doubled"
            found[request.sample.id] = answer
    return found


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for f in folder.rglob("answers-*.jsonl") for line in f.open()]


def test_1000_requests_of_which_30_percent_fail(
    screens: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TEST_KEY", KEY)
    samples, model = questions(screens, 1000), FaultyModel(0.3)
    with ChatServer(model) as server:
        section = teacher(server, api_key_env="TEST_KEY", price_per_million_prompt_tokens=1)
        session = section.open(screens, device="cpu", responses=tmp_path, job="one")
        found = answered(session, samples)
        session.close()
        facts = session.usage()
        again = section.open(screens, device="cpu", responses=tmp_path, job="two")
        sent = sum(model.requests.values())
        assert answered(again, samples) == found
        assert sum(model.requests.values()) == sent, "what was paid for is not asked again"
        assert again.usage()["cost"] == 0
        again.close()
    assert len(found) == 1000
    assert len(model.requests) == 1000
    texts = {asked.split("?")[0]: f"Answer to {asked}" for asked in model.requests}
    refused = [asked for asked in model.requests if model.refuses(asked)]
    assert len(refused) > 5
    for n, sample in enumerate(samples):
        answer, expected = found[sample.id], texts[f"Question {n}"]
        if model.refuses(expected.removeprefix("Answer to ")):
            assert answer.failure is not None
            assert "content_filter" in answer.failure
        else:
            assert (answer.failure, answer.text) == (None, expected), "mixed up or lost"
            assert answer.finished
    kinds = set(model.faults)
    assert kinds >= {*RETRIED, *TAKEN, "refusal"}
    assert sum(model.faults.values()) > 250
    assert sum(model.billed.values()) <= 1.5 * 1000
    assert facts["failures"] == len(refused)
    assert facts["requests"] == sent
    assert facts["retries"] == sent - 1000
    billed = [row for row in rows(tmp_path) if "failed" in row and row["cost"] > 0]
    assert billed, "attempts that failed and may be billed are in the ledger"
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(KEY in text for text in [*written, *capfd.readouterr()])


def test_the_cost_cap_stops_and_counts_earlier_runs(screens: Path, tmp_path: Path) -> None:
    samples, model = questions(screens, 60), FaultyModel(seconds=0.01, prompt=1000)
    prices = {"price_per_million_prompt_tokens": 10, "price_per_million_answer_tokens": 20}
    one = (1000 * 10 + 6 * 20) / 1e6
    with ChatServer(model) as server:
        section = teacher(server, **prices, max_cost=20.5 * one)
        for _ in range(2):
            session = section.open(screens, device="cpu", responses=tmp_path, job="job")
            with pytest.raises(TeacherError, match=r"max_cost: 0\.2\d+ are spent") as raised:
                answered(session, samples)
            assert raised.value.exit_code == 4
            session.close()
            assert sum(model.billed.values()) == 20, "as many as the cap allows, and no more"
            assert session.usage()["cost"] == pytest.approx(20 * one)
        raised_cap = teacher(server, **prices, max_cost=100 * one)
        session = raised_cap.open(screens, device="cpu", responses=tmp_path, job="job")
        assert len(answered(session, samples)) == 60
        assert max(model.billed.values()) == 1
        session.close()
        few = teacher(server, max_requests=5)
        session = few.open(screens, device="cpu", responses=tmp_path, job="few")
        assert len(answered(session, samples)) == 60, "all were known"
        session.close()
        other = questions(screens, 70)[60:]
        with pytest.raises(TeacherError, match="max_requests: 5 requests were sent"):
            answered(
                session := few.open(screens, device="cpu", responses=tmp_path, job="few"), other
            )
        session.close()
        assert sum(model.billed.values()) == 65


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (Sent({"error": {"message": f"Incorrect API key: {KEY}"}}, 401), "does not accept the key"),
        (Sent({"error": "forbidden"}, 403), "does not allow this"),
        (Sent({"detail": "Not Found"}, 404), "no such model or path"),
        (Sent(b"", 307, {"Location": "http://elsewhere"}), "sends requests elsewhere"),
        (Sent({"error": {"code": "insufficient_quota"}}, 429), "quota is used up"),
        (Sent(b"", 429, {"Retry-After": "7200"}), "asks to wait 7200 s"),
        (Sent({"error": {"message": "top_logprobs must be <= 20"}}, 400), "label.top_k"),
        (Sent({"error": {"message": "unknown field"}}, 400), "does not answer .*unknown field"),
        (Sent(b"", 500), "does not answer .*HTTP 500, 2 times"),
    ],
)
def test_what_no_repetition_mends_stops_at_once(
    screens: Path, monkeypatch: pytest.MonkeyPatch, sent: Sent, message: str
) -> None:
    import traceback

    monkeypatch.setenv("TEST_KEY", KEY)
    with ChatServer(lambda body, headers: sent) as server:
        section = teacher(server, api_key_env="TEST_KEY", max_retries=1, concurrency=4)
        session = section.open(screens, device="cpu")
        with pytest.raises(TeacherError, match=message) as raised:
            answered(session, questions(screens, 40))
        session.close()
    assert raised.value.exit_code == 4
    assert raised.value.mend
    assert len(server.paths) <= 2 * (4 + 3), "the others are not tried"
    assert KEY not in "".join(traceback.format_exception(raised.value))


def test_a_server_that_is_not_there_is_named(screens: Path) -> None:
    with ChatServer(lambda body, headers: Sent()) as server:
        pass
    session = teacher(server, max_retries=0).open(screens, device="cpu")
    with pytest.raises(TeacherError, match=f"{server.url}.*no connection"):
        answered(session, questions(screens, 4))
    session.close()


def test_samples_that_always_fail_cost_only_themselves(screens: Path, tmp_path: Path) -> None:
    samples = questions(screens, 30)
    broken = {f"q{n}" for n in (2, 7, 12, 17, 22, 29)}

    def respond(body: dict[str, Any], headers: dict[str, str]) -> Sent:
        asked = question(body)
        bad = f"q{asked.split('?')[0].split()[-1]}" in broken
        return Sent(b"", 500) if bad else Sent(completion(asked), seconds=0.02)

    with ChatServer(respond) as server:
        section = teacher(server, max_retries=0, concurrency=2)
        session = section.open(screens, device="cpu", responses=tmp_path, job="job")
        found = answered(session, samples)
        session.close()
        failed = {name: answer.failure for name, answer in found.items() if answer.failure}
        assert failed == dict.fromkeys(broken, "no answer (HTTP 500, once)")
        assert session.usage()["failures"] == len(broken)
        # Another run asks for them again; alone, they are still not the server's fault.
        two = [s for s in samples if s.id not in broken] + samples[2:3] + samples[7:8]
        session = section.open(screens, device="cpu", responses=tmp_path, job="job")
        assert sum(answer.failure is not None for answer in answered(session, two).values()) == 2
        session.close()


def test_an_empty_answer_is_asked_for_thrice_and_then_taken(screens: Path) -> None:
    with ChatServer(lambda body, headers: Sent(completion(""))) as server:
        session = teacher(server).open(screens, device="cpu")
        (answer,) = session.generate(questions(screens, 1), DECODING)
        session.close()
    assert (answer.text, answer.failure) == ("", None)
    assert len(server.paths) == 3


def test_two_processes_on_one_folder_share_what_is_paid_and_the_cap(
    screens: Path, tmp_path: Path
) -> None:
    samples, model = questions(screens, 40), FaultyModel(seconds=0.01)
    with ChatServer(model) as server:
        section = teacher(server, max_requests=40)
        sessions = [
            section.open(screens, device="cpu", responses=tmp_path, job="job") for _ in range(2)
        ]
        halves = [samples[:20], samples[20:]]
        found: list[dict[str, Answer]] = [{}, {}]

        def work(n: int) -> None:
            found[n] = answered(sessions[n], halves[n])

        threads = [threading.Thread(target=work, args=(n,)) for n in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found[0] | found[1]) == 40
        assert max(model.billed.values()) == 1
        assert sessions[0].usage()["requests"] == sessions[1].usage()["requests"] == 40
        for session in sessions:
            session.close()


RECIPE = """
name: served
data: {source: screens, train: 50, validation: 2, test: 4}
teacher: {backend: openai, base_url: %s, model: m, concurrency: 4, api_key_env: TEST_KEY}
student: {build: {family: qwen2_vl}}
label: {signal: none, batch_size: 2}
losses: [{kind: cross_entropy}]
"""


def start(recipe: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "limbeck", "label", str(recipe), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TEST_KEY": KEY}
    # A shell's background job ignores Ctrl-C, and so would what it starts.
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    finally:
        signal.signal(signal.SIGINT, ignored)


def until(condition: Any, process: subprocess.Popen[bytes]) -> None:
    while not condition() and process.poll() is None:
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 75), (signal.SIGINT, 130)],
)
def test_a_stopped_job_pays_for_nothing_twice(tmp_path: Path, number: int, code: int) -> None:
    # Slow enough that a starved test still catches the job half-way.
    model, recipe = FaultyModel(seconds=0.3), tmp_path / "recipe.yaml"
    with ChatServer(model) as server:
        recipe.write_text(RECIPE % server.url + f"work: {tmp_path / 'work'}\n")
        process = start(recipe, "--debug")
        until(lambda: len(model.billed) > 12, process)
        assert process.poll() is None, "the job is under way"
        process.send_signal(number)
        _, first = process.communicate(timeout=60)
        assert process.returncode == code, first.decode()[-2000:]
        kept = len(rows(tmp_path / "work" / "responses"))
        asked = sum(model.billed.values())
        lost = asked - kept
        assert lost <= (4 if number == signal.SIGKILL else 0), "those on their way, at most"
        process = start(recipe, "--json")
        out, second = process.communicate(timeout=60)
        assert process.returncode == 0, second.decode()[-2000:]
    assert sum(model.billed.values()) <= len(model.billed) + lost
    work = tmp_path / "work"
    (manifest,) = (json.loads(p.read_text()) for p in work.glob("labels/*/MANIFEST.json"))
    assert manifest["summary"]["valid"] == 50
    assert manifest["summary"]["usage"]["requests"] == len(model.billed)
    contents = [path.read_bytes() for path in work.rglob("*") if path.is_file()]
    assert not any(KEY.encode() in content for content in [*contents, out, first, second])


def test_a_key_that_the_server_sends_back_is_written_nowhere(tmp_path: Path) -> None:
    """Into an answer, and into the error that ends the job, with its traceback."""
    recipe, asked = tmp_path / "recipe.yaml", []

    def respond(body: dict[str, Any], headers: dict[str, str]) -> Sent:
        asked.append(headers["authorization"])
        said = f"You sent {headers['authorization']} with {question(body)}"
        if len(asked) <= 12:
            return Sent(completion(said))
        return Sent({"error": {"message": said}}, 401)

    with ChatServer(respond) as server:
        recipe.write_text(RECIPE % server.url + f"work: {tmp_path / 'work'}\n")
        process = start(recipe, "--debug")
        out, err = process.communicate(timeout=60)
    assert asked[0] == f"Bearer {KEY}"
    assert process.returncode == 4
    assert b"Traceback" in err
    assert b"does not accept the key (HTTP 401: You sent Bearer [key]" in err
    contents = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"Bearer [key]" in content for content in contents)
    assert not any(KEY.encode() in content for content in [*contents, out, err])
