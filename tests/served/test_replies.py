"""What responses mean: kept, tried again, given up, or the end of the job."""

from __future__ import annotations

import json
import re
from email.utils import formatdate
from typing import Any

import pytest

from chat_server import completion
from limbeck.errors import TeacherError
from limbeck.served.replies import GaveUp, TryAgain, judge_status, reply_from, retry_after

NOW = 1_700_000_000.0


def parsed(body: Any, **options: Any) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return reply_from(content, **options)


def test_a_reply_has_text_and_what_it_costs() -> None:
    reply = parsed(completion("a cat", prompt=7))
    assert (reply.text, reply.finished, reply.failure) == ("a cat", True, None)
    assert (reply.prompt_tokens, reply.answer_tokens) == (7, 3)
    assert parsed(completion("a cat", finish="length")).finished is False
    assert parsed({**completion("a cat"), "usage": None}).prompt_tokens is None
    assert parsed(completion("half \ud83d")).text == "half �"
    cut = parsed(completion("", finish="length"))
    assert (cut.text, cut.finished) == ("", False), "nothing is gained by asking again"


@pytest.mark.parametrize(
    ("message", "finish", "failure"),
    [
        ({"content": None, "refusal": "I can't help"}, "stop", r"refused .*I can't help"),
        ({"content": "half an ans"}, "content_filter", "refused .*content filter"),
        ({"content": None, "tool_calls": []}, "tool_calls", "call of a tool"),
    ],
)
def test_refusals_are_failures_of_one_sample(
    message: dict[str, Any], finish: str, failure: str
) -> None:
    body = completion("", finish=finish)
    body["choices"][0]["message"] = message
    assert re.search(failure, parsed(body).failure)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        {"choices": []},
        {"choices": [{"index": 3, "message": {"content": "x"}}]},
        {"choices": [{"message": None}]},
        {"choices": [{"message": {"content": 5}}]},
        {"choices": "none"},
        {**completion("x"), "usage": {"prompt_tokens": "many"}},
    ],
)
def test_what_is_no_whole_answer_is_tried_again_and_may_be_billed(body: Any) -> None:
    with pytest.raises(TryAgain, match="no whole answer") as raised:
        parsed(body)
    assert raised.value.billed


def test_only_the_end_of_a_long_prompt_is_kept() -> None:
    rows = [None, *({str(i): {"logprob": -1.0}} for i in range(1, 100))]
    body = {**completion("x"), "prompt_logprobs": rows, "prompt_token_ids": list(range(100))}
    reply = parsed(body, tail=5)
    assert reply.prompt_token_ids == [95, 96, 97, 98, 99]
    assert reply.prompt_logprobs == rows[-5:]


def judge(status: int, body: Any = b"", **headers: str) -> Any:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return judge_status(status, headers, content, address="http://server", now=NOW)


@pytest.mark.parametrize("status", [408, 409, 425, 429, 500, 502, 503, 504, 529])
def test_busy_and_failing_servers_are_asked_again(status: int) -> None:
    with pytest.raises(TryAgain, match=str(status)) as raised:
        judge(status, b"<html>oops</html>", **{"retry-after": "3"})
    assert raised.value.wait_seconds == 3
    assert not raised.value.billed
    assert raised.value.trouble == ("rate limit" if status == 429 else "server")
    assert "<html>" not in raised.value.reason


@pytest.mark.parametrize("status", [301, 307, 401, 402, 403, 404, 405])
def test_what_holds_for_every_request_ends_the_job(status: int) -> None:
    with pytest.raises(TeacherError, match=f"http://server: .*HTTP {status}") as raised:
        judge(status, {"error": {"message": "said the server"}})
    assert "said the server" in str(raised.value)
    assert raised.value.mend


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"code": "content_filter", "message": "no"}),
        (400, {"message": "Rejected by our safety system."}),
        (403, {"message": "Input was flagged by moderation"}),
    ],
)
def test_refused_content_is_a_reply(status: int, error: dict[str, str]) -> None:
    assert "refused by the server" in judge(status, {"error": error}).failure


def test_other_requests_that_it_does_not_take_are_given_up() -> None:
    assert judge(200) is None
    for body in ({"error": {"message": "too long"}}, {"detail": "too long"}, b"too long"):
        with pytest.raises(GaveUp, match="HTTP 400: too long"):
            judge(400, body)


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after("2.5", NOW) == 2.5
    assert retry_after(formatdate(NOW + 90, usegmt=True), NOW) == pytest.approx(90, abs=1)
    assert retry_after(formatdate(NOW - 90, usegmt=True), NOW) == 0
    assert retry_after("soon", NOW) is None
    assert retry_after(None, NOW) is None
