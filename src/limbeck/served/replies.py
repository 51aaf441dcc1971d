"""What a response means: a reply to keep, or a reason to try again or to give up."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from limbeck.errors import TeacherError

Trouble = Literal["unreachable", "rate limit", "server", "request"]
"""Who is to blame: the network, the rate, the server (perhaps on one sample), or what was asked."""

_REFUSAL = re.compile(
    r"content[ _-]?(filter|policy|management)|safety system|moderation|responsible ai", re.I
)
_KEPT_MESSAGE = 300


@dataclass(frozen=True)
class Reply:
    """What the server said to one call; JSON-able, for the ledger.

    `failure` is why there is no answer. `logprobs` and what follows are as the server sent them,
    the last two cut to the end of the prompt.
    """

    text: str
    finished: bool
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    failure: str | None = None
    logprobs: list[dict[str, Any]] | None = None
    prompt_logprobs: list[dict[str, Any] | None] | None = None
    prompt_token_ids: list[int] | None = None


class TryAgain(Exception):
    """An attempt that failed and may be repeated.

    Args:
        reason: in words, without anything secret.
        trouble: who is to blame.
        billed: whether the server may ask money for it.
        wait_seconds: how long the server asks to wait, if it does.
        reply: an answer without content, to be taken when it does not get better.
    """

    def __init__(
        self,
        reason: str,
        trouble: Trouble,
        *,
        billed: bool = False,
        wait_seconds: float | None = None,
        reply: Reply | None = None,
    ) -> None:
        super().__init__(reason)
        self.reason, self.trouble, self.billed = reason, trouble, billed
        self.wait_seconds, self.reply = wait_seconds, reply


class GaveUp(Exception):
    """A call without a reply: every attempt failed, or the server refuses what it asks."""

    def __init__(self, reason: str, trouble: Trouble) -> None:
        super().__init__(reason)
        self.reason, self.trouble = reason, trouble


def reply_from(content: bytes, *, tail: int | None = None) -> Reply:
    """The reply in a successful response.

    Args:
        content: the response's body.
        tail: how many of the prompt's last positions are kept.

    Raises:
        TryAgain: it is no whole JSON, has no answer in it, or an empty one.
    """
    try:
        body = json.loads(content)
        choice = next(c for c in body["choices"] if c.get("index", 0) == 0)
        message, usage = choice["message"], body.get("usage") or {}
        text, refusal = message.get("content") or "", message.get("refusal")
        reason = choice.get("finish_reason")
        tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
        logprobs = (choice.get("logprobs") or {}).get("content")
        if not isinstance(text, str) or not all(t is None or isinstance(t, int) for t in tokens):
            raise TypeError
    except (ValueError, TypeError, KeyError, AttributeError, StopIteration) as error:
        raise TryAgain("the response is no whole answer", "server", billed=True) from error
    failure = None
    if refusal or reason == "content_filter":
        failure = f"refused by the server ({_short(refusal or 'content filter')})"
    elif reason in ("tool_calls", "function_call"):
        failure = "the server answers with a call of a tool"
    cut = slice(None) if tail is None else slice(-tail, None)
    reply = Reply(
        _whole_characters(text),
        finished=reason != "length",
        prompt_tokens=tokens[0],
        answer_tokens=tokens[1],
        failure=failure,
        logprobs=logprobs,
        prompt_logprobs=(body.get("prompt_logprobs") or [])[cut] or None,
        prompt_token_ids=(body.get("prompt_token_ids") or [])[cut] or None,
    )
    if failure is None and reply.finished and not text.strip() and not reply.prompt_logprobs:
        raise TryAgain("the answer is empty", "server", billed=True, reply=reply)
    return reply


def judge_status(
    status: int, headers: dict[str, str], content: bytes, *, address: str, now: float
) -> Reply | None:
    """What a response that is no success means; None for a success.

    Args:
        status: of HTTP.
        headers: in lower case.
        content: its body, without secrets.
        address: of the server, for errors.
        now: seconds since 1970.

    Returns:
        A reply that says that the server refuses this content.

    Raises:
        TryAgain: it is busy, or failed.
        GaveUp: it does not take this request.
        TeacherError: no request will do better.
    """
    if 200 <= status < 300:
        return None
    said = _message(content)
    if status == 429 and "insufficient_quota" not in said:
        wait = retry_after(headers.get("retry-after"), now)
        raise TryAgain(f"rate limit (429{said})", "rate limit", wait_seconds=wait)
    if status in (408, 409, 425) or status >= 500:
        wait = retry_after(headers.get("retry-after"), now)
        raise TryAgain(f"HTTP {status}{said}", "server", wait_seconds=wait)
    if status in (400, 403, 422) and _REFUSAL.search(said):
        return Reply("", finished=True, failure=f"refused by the server (HTTP {status}{said})")
    if status in _FINAL or status < 400:
        what, mend = _FINAL.get(
            status, ("sends requests elsewhere", "give the address it sends to")
        )
        raise TeacherError(f"the server {what} (HTTP {status}{said})", where=address, mend=mend)
    if "logprobs" in said:
        raise TeacherError(
            f"the server does not give these log-probabilities (HTTP {status}{said})",
            where=address,
            mend="lower label.top_k (hosted models give 20 at most), start vLLM with "
            "--max-logprobs, or set label.signal to none",
        )
    raise GaveUp(f"HTTP {status}{said}", "request")


_FINAL = {
    401: ("does not accept the key", "check the variable that teacher.api_key_env names"),
    402: ("asks for payment", "add credit to the account"),
    403: ("does not allow this", "check what the key may use"),
    404: ("has no such model or path", "check teacher.model and teacher.base_url (often .../v1)"),
    405: ("does not answer chats at this path", "check teacher.base_url (often .../v1)"),
    429: ("says that the quota is used up", "add credit to the account, then run again"),
}


def retry_after(value: str | None, now: float) -> float | None:
    """Seconds to wait by a Retry-After header: a number of seconds, or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now)
    except ValueError:
        return None


def _message(content: bytes) -> str:
    """The server's own words, on one line, after a colon; nothing where there are none."""
    text = content[:10_000].decode(errors="replace")
    try:
        body = json.loads(content)
        error = body.get("error", body) if isinstance(body, dict) else body
        if isinstance(error, dict):
            parts = [error.get("code"), error.get("message") or error.get("detail")]
            text = " ".join(str(part) for part in parts if part)
        else:
            text = str(error)
    except ValueError:
        text = "" if "<html" in text.lower() else text
    return f": {_short(text)}" if text.strip() else ""


def _whole_characters(text: str) -> str:
    """Half characters (lone surrogates), which JSON can hold and no file can, as U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _short(text: Any) -> str:
    line = " ".join(str(text).split())
    return line if len(line) <= _KEPT_MESSAGE else f"{line[: _KEPT_MESSAGE - 3]}..."
