"""One call to the server, tried again until it succeeds or nothing more can be hoped for."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from limbeck.errors import TeacherError
from limbeck.served.account import Account
from limbeck.served.pace import Pace
from limbeck.served.replies import GaveUp, Reply, TryAgain, judge_status, reply_from
from limbeck.served.server import Server

PATH = "/chat/completions"
MAX_EMPTY_ANSWERS = 2
"""Empty answers are paid for, and a model that means them says nothing else."""

LONGEST_WAIT_SECONDS = 600.0
"""A server that asks to wait longer is left alone."""

Exchanged = TypeVar("Exchanged")


@dataclass(frozen=True)
class Call:
    """What is asked.

    Attributes:
        key: identifies everything that determines the answer.
        body: makes the request's JSON; pictures are opened only then.
        answer_limit: most tokens of the answer.
        where: the sample, for errors.
        tail: how many of the prompt's last positions are wanted, of calls for its distributions.
    """

    key: str
    body: Callable[[], dict[str, Any]] = field(repr=False, compare=False)
    answer_limit: int
    where: str
    tail: int | None = None


class Client:
    """Sends calls; lives in one event loop.

    The API key is in this object's headers and nowhere else; whatever the server sends is cleared
    of it before it is read.

    Args:
        server: where to.
        account: what pays for it.
        key: the API key.
    """

    def __init__(self, server: Server, account: Account, key: str | None) -> None:
        import httpx2

        self._server, self._account, self._secret = server, account, key
        self.pace = Pace(server.requests_per_minute)
        headers = {"Content-Type": "application/json"}
        if key is not None:
            bearer = "Bearer " if server.api_key_header.lower() == "authorization" else ""
            headers[server.api_key_header] = bearer + key
        self._http = httpx2.AsyncClient(
            headers=headers,
            timeout=server.timeout_seconds,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=64),
            trust_env=not server.is_here,  # a proxy does not lead to this machine
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, call: Call) -> Reply:
        """The reply to a call, which is kept and paid for when this returns.

        Raises:
            GaveUp: no attempt succeeded, or the server refuses the request.
            TeacherError: no request will do better: the key, the path, the caps.
            HaltedError: the job stops.
            DataError: a picture cannot be opened.
        """
        content = await asyncio.to_thread(lambda: json.dumps(call.body()).encode())
        attempts, unrecorded, empty = 0, 0, 0
        while True:
            await self.pace.turn()
            if attempts and not self._account.admits(call.answer_limit, again=True):
                raise self._account.cap_error()
            attempts += 1
            unrecorded += 1
            retries = unrecorded - (attempts == unrecorded)
            self._account.sent()
            try:
                reply = await self._send(content, call.tail)
            except TryAgain as failed:
                empty += failed.reply is not None
                last = attempts > self._server.max_retries
                if failed.reply is None or not (last or empty > MAX_EMPTY_ANSWERS):
                    if failed.billed or last:
                        lost = partial(self._account.lost, call.key, failed)
                        await asyncio.to_thread(lost, requests=unrecorded, retries=retries)
                        unrecorded = 0
                    if last:
                        often = "once" if attempts == 1 else f"{attempts} times"
                        raise GaveUp(f"{failed.reason}, {often}", failed.trouble) from None
                    await self._rest(failed, attempts)
                    continue
                reply = failed.reply
            paid = partial(self._account.paid, call.key, reply)
            await asyncio.to_thread(paid, requests=unrecorded, retries=retries)
            return reply

    async def _rest(self, failed: TryAgain, attempts: int) -> None:
        """Wait before the next attempt; what a rate limit asks for holds for all calls."""
        wait = self.pace.backoff(attempts - 1)
        if failed.wait_seconds is not None:
            if failed.wait_seconds > LONGEST_WAIT_SECONDS:
                raise TeacherError(
                    f"the server asks to wait {failed.wait_seconds:.0f} s ({failed.reason})",
                    where=self._server.base_url,
                    mend="run the same command again then; what was answered is kept",
                )
            if failed.trouble == "rate limit":
                self.pace.pause(failed.wait_seconds)
            wait = failed.wait_seconds or wait
        await self.pace.rest(wait)

    async def _send(self, content: bytes, tail: int | None) -> Reply:
        """One attempt."""
        sent = self._http.post(self._server.base_url + PATH, content=content)
        response = await self._in_time(sent)
        body = self._clear(response.content)
        refused = self._judged(response, body)
        if refused is not None:
            return refused
        return await asyncio.to_thread(reply_from, body, tail=tail)  # may be megabytes

    async def _in_time(self, exchange: Coroutine[Any, Any, Exchanged]) -> Exchanged:
        """What an exchange with the server gives; the network's errors in our words."""
        import httpx2

        seconds = self._server.timeout_seconds
        try:
            async with asyncio.timeout(seconds):
                return await exchange
        except (TimeoutError, httpx2.TimeoutException):
            # A server may go on, and ask money for, what nobody waits for any more.
            raise TryAgain(f"no response in {seconds:g} s", "server", billed=True) from None
        except httpx2.ConnectError as error:
            raise TryAgain(self._clear(f"no connection ({error})"), "unreachable") from None
        except httpx2.RequestError as error:
            reason = f"the connection broke ({type(error).__name__})"
            raise TryAgain(reason, "server", billed=True) from None

    def _judged(self, response: Any, body: bytes) -> Reply | None:
        """As `judge_status`, of a response and its body."""
        return judge_status(
            response.status_code,
            {name.lower(): value for name, value in response.headers.items()},
            body,
            address=self._server.base_url,
            now=time.time(),
        )

    def _clear(self, said: Any) -> Any:
        """Text or bytes without the key, whoever put it there."""
        if self._secret is None:
            return said
        if isinstance(said, bytes):
            return said.replace(self._secret.encode(), b"[key]")
        return said.replace(self._secret, "[key]")
