"""Servers of /v1/chat/completions in threads of the test's process: scripted, or faulty."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Sent:
    """A response. `cut` sends half of it and breaks the connection; `reset` sends nothing.

    `events` are sent in place of a body, each after so many seconds, as a stream of server-sent
    events.
    """

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    cut: bool = False
    reset: bool = False
    events: tuple[tuple[float, Any], ...] = ()


class ChatServer:
    """Answers every request with what `respond(body, headers)` returns, until it is closed."""

    def __init__(self, respond: Callable[[Body, dict[str, str]], Sent]) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                with server.lock:
                    server.paths.append(self.path)
                self._send(respond(body, {k.lower(): v for k, v in self.headers.items()}))

            def _send(self, sent: Sent) -> None:
                time.sleep(sent.seconds)
                if sent.reset:
                    linger = struct.pack("ii", 1, 0)
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    self.connection.close()
                    self.close_connection = True
                    return
                if sent.events:
                    self._stream(sent.events)
                    return
                raw = isinstance(sent.body, bytes)
                content = sent.body if raw else json.dumps(sent.body).encode()
                try:
                    self.send_response(sent.status)
                    for name, value in sent.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(content)))
                    self.end_headers()
                    self.wfile.write(content[: len(content) // 2] if sent.cut else content)
                except OSError:  # the client has gone
                    self.close_connection = True
                if sent.cut:
                    self.close_connection = True

            def _stream(self, events: tuple[tuple[float, Any], ...]) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream; charset=utf-8")
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                try:
                    for seconds, event in events:
                        time.sleep(seconds)
                        text = event if isinstance(event, str) else json.dumps(event)
                        content = f"data: {text}\n\n".encode()
                        self.wfile.write(b"%x\r\n%s\r\n" % (len(content), content))
                    self.wfile.write(b"0\r\n\r\n")
                except OSError:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 256

            def handle_error(self, *_: object) -> None:
                pass

        self.lock, self.paths = threading.Lock(), []
        self._http = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def __enter__(self) -> ChatServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()


def question(body: Body) -> str:
    """What a request asks: its last text, with a digest of its pictures."""
    text, pictures = "", hashlib.sha256()
    for turn in body["messages"]:
        parts = turn["content"]
        for part in [{"text": parts}] if isinstance(parts, str) else parts:
            if "text" in part:
                text = part["text"]
            else:
                pictures.update(part["image_url"]["url"].encode())
    return f"{text} [{pictures.hexdigest()[:8]}]"


def completion(text: str, *, finish: str = "stop", prompt: int = 50, **more: Any) -> Body:
    """A response as the API has it; an answer has as many tokens as words, and an end."""
    message = {"role": "assistant", "content": text}
    answer = len(text.split()) + 1
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, **more}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        },
    }


RETRIED = ("rate", "rate date", "error", "reset", "hang", "half", "broken off", "empty")
TAKEN = ("wrong order", "duplicate")


class FaultyModel:
    """Answers `Answer to <question>`; a share of the requests goes wrong, drawn by question.

    Counts what it would ask money for, by question and length.
    """

    def __init__(
        self, share: float = 0.0, *, seconds: float = 0.0, hang: float = 1.5, prompt: int = 50
    ) -> None:
        self.share, self.seconds, self.hang, self.prompt = share, seconds, hang, prompt
        self.billed: Counter[str] = Counter()
        self.requests: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self._lock = threading.Lock()

    def refuses(self, asked: str) -> bool:
        """Whether the content of a question is refused, always."""
        return self.share > 0 and random.Random(f"refused {asked}").random() < 0.02

    def __call__(self, body: Body, headers: dict[str, str]) -> Sent:
        asked = question(body)
        call = f"{asked} {body['max_tokens']}"
        with self._lock:
            number = self.requests[asked]
            self.requests[asked] += 1
        if self.refuses(asked):
            self._count(call, "refusal", billed=False)
            error = {"code": "content_filter", "message": "violates our content policy"}
            return Sent({"error": error}, status=400)
        draw = random.Random(f"{asked} {number}")
        good = completion(f"Answer to {asked}", prompt=self.prompt)
        fault = ""
        if draw.random() < self.share:  # at most three faults, so that no question is hopeless
            fault = draw.choice(RETRIED + TAKEN if number < 3 else TAKEN)
        if fault == "empty" and number:  # nor said thrice to have no answer
            fault = "error"
        free = fault in ("rate", "rate date", "error")
        self._count(call, fault, billed=not free)
        sent = self._wrong(fault, good, draw) if fault else Sent(good, seconds=self.seconds)
        if fault not in RETRIED:
            with self._lock:
                self.answered[asked] += 1
        return sent

    def _count(self, call: str, fault: str, *, billed: bool) -> None:
        with self._lock:
            self.faults[fault] += bool(fault)
            self.billed[call] += billed

    def _wrong(self, fault: str, good: Body, draw: random.Random) -> Sent:
        choice = good["choices"][0]
        other = {**choice, "index": 1, "message": {"role": "assistant", "content": "Another"}}
        whole = json.dumps(good).encode()
        return {
            "rate": Sent({"error": {"message": "slow down"}}, 429, {"Retry-After": "0.05"}),
            "rate date": Sent(b"slow down", 429, {"Retry-After": formatdate(usegmt=True)}),
            "error": Sent(b"<html>Bad gateway</html>", draw.choice((500, 502, 503))),
            "reset": Sent(good, reset=True),
            "hang": Sent(good, seconds=self.hang),
            "half": Sent(whole[: len(whole) // 2]),
            "broken off": Sent(whole, cut=True),
            "empty": Sent(completion("", prompt=self.prompt)),
            "wrong order": Sent({**good, "choices": [other, choice]}, seconds=draw.random() * 0.1),
            "duplicate": Sent({**good, "choices": [choice, choice]}),
        }[fault]


def streamed(
    pieces: list[str],
    *,
    first_seconds: float,
    each_seconds: float,
    prompt: int = 50,
    tokens: int | None = None,
    finish: str = "stop",
    usage: bool = True,
) -> Sent:
    """A streamed answer whose pieces come at known times; the role comes at once, without text."""

    def chunk(delta: Body, **more: Any) -> Body:
        choice = {"index": 0, "delta": delta, "finish_reason": None, **more}
        return {"object": "chat.completion.chunk", "model": "m-2026", "choices": [choice]}

    times = [first_seconds, *[each_seconds] * (len(pieces) - 1)]
    events: list[tuple[float, Any]] = [(0.0, chunk({"role": "assistant", "content": ""}))]
    events += [(s, chunk({"content": piece})) for s, piece in zip(times, pieces, strict=True)]
    events.append((0.0, chunk({}, finish_reason=finish)))
    if usage:
        count = tokens if tokens is not None else len(pieces)
        numbers = {"prompt_tokens": prompt, "completion_tokens": count}
        events.append((0.0, {"choices": [], "usage": numbers}))
    return Sent(events=(*events, (0.0, "[DONE]")))
