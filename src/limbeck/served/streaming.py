"""Answers that are listened to while they are written, so that their parts can be timed.

A server that is asked to stream sends an event (`data: {...}`) for every piece of text; the pieces
arrive when their tokens are made, with the network's delay. The clock starts when the request,
which has been made before, is handed to the connection.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

from limbeck.served.client import PATH, Client
from limbeck.served.replies import Reply, TryAgain, reply_from


@dataclass(frozen=True)
class StreamedReply(Reply):
    """A reply with its times, from the sending of the request.

    `first_token_seconds` is None where no piece of text came by itself: the server does not stream,
    or the answer is empty. `served_as` is what the server says about itself.
    """

    first_token_seconds: float | None = None
    total_seconds: float = 0.0
    served_as: tuple[tuple[str, str], ...] = ()


class StreamingClient(Client):
    """Sends calls whose bodies say `stream: true`, and times what comes back."""

    async def _send(self, content: bytes, tail: int | None) -> Reply:
        del tail
        return await self._in_time(self._listen(content))

    async def _listen(self, content: bytes) -> Reply:
        began = time.perf_counter()
        url = self._server.base_url + PATH
        async with self._http.stream("POST", url, content=content) as response:
            if not 200 <= response.status_code < 300:
                refused = self._judged(response, self._clear(await response.aread()))
                assert refused is not None, "no success"
                return refused
            if "text/event-stream" not in response.headers.get("content-type", ""):
                body = self._clear(await response.aread())
                return _whole(body, time.perf_counter() - began)
            return await self._pieces(response.aiter_lines(), began)

    async def _pieces(self, lines: AsyncIterator[str], began: float) -> StreamedReply:
        text: list[str] = []
        first: float | None = None
        reason: str | None = None
        usage: dict[str, Any] = {}
        says: dict[str, str] = {}
        async for line in lines:
            if not line.startswith("data:"):
                continue  # comments and names of events
            payload = self._clear(line.removeprefix("data:").strip())
            if payload == "[DONE]":
                break
            event = _event(payload)
            usage = event.get("usage") or usage
            says |= {k: event[k] for k in ("model", "system_fingerprint") if event.get(k)}
            choice = next(iter(event.get("choices") or ()), {})
            delta = choice.get("delta") or {}
            piece = delta.get("content") or ""
            if first is None and (
                piece or delta.get("reasoning_content") or delta.get("reasoning")
            ):
                first = time.perf_counter() - began
            text.append(piece)
            reason = choice.get("finish_reason") or reason
        if reason is None:
            raise TryAgain("the stream ended before the answer", "server", billed=True)
        refused = "refused by the server (content filter)" if reason == "content_filter" else None
        return StreamedReply(
            "".join(text),
            finished=reason != "length",
            prompt_tokens=usage.get("prompt_tokens"),
            answer_tokens=usage.get("completion_tokens"),
            failure=refused,
            first_token_seconds=first,
            total_seconds=time.perf_counter() - began,
            served_as=tuple(sorted(says.items())),
        )


def _event(payload: str) -> dict[str, Any]:
    try:
        event = json.loads(payload)
    except ValueError as error:
        raise TryAgain("the stream holds no whole event", "server", billed=True) from error
    if not isinstance(event, dict) or "error" in event:
        said = str(event.get("error") if isinstance(event, dict) else event)[:300]
        raise TryAgain(f"the stream broke ({said})", "server", billed=True)
    return event


def _whole(body: bytes, seconds: float) -> StreamedReply:
    """Of a server that does not stream: an answer in one piece."""
    try:
        reply = reply_from(body)
    except TryAgain as error:
        if error.reply is None:
            raise
        reply = error.reply  # empty, which takes its time, too
    fields = {name: getattr(reply, name) for name in Reply.__dataclass_fields__}
    return replace(StreamedReply(**fields), total_seconds=seconds)
