"""Keeping a server busy: so many requests under way at once, for as long as there are calls left.

A closed loop: the next request is sent when one has been answered. It runs in an event loop of its
own thread, so that it also works where a notebook has one; a signal ends it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from limbeck.served.account import Account
from limbeck.served.client import Call
from limbeck.served.replies import GaveUp
from limbeck.served.streaming import StreamedReply, StreamingClient
from limbeck.stop import stop_on_signals

Result = TypeVar("Result")
LOOKING_SECONDS = 0.2
WAITING_SECONDS = 0.01


@dataclass
class Load:
    """What came of the calls of one window, and how long it took; failures in words."""

    replies: list[StreamedReply] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0


async def keep_busy(
    client: StreamingClient, account: Account, calls: Sequence[Call], concurrency: int
) -> Load:
    """Ask everything, `concurrency` at a time.

    Raises:
        TeacherError: a cap is reached, or no request can succeed.
    """
    load, left = Load(), iter(calls)
    began = time.perf_counter()
    askers = [
        asyncio.create_task(_ask_on(client, account, left, load))
        for _ in range(min(concurrency, len(calls)))
    ]
    try:
        await asyncio.gather(*askers)
    finally:
        for asker in askers:
            asker.cancel()
    load.seconds = time.perf_counter() - began
    return load


async def _ask_on(
    client: StreamingClient, account: Account, left: Iterator[Call], load: Load
) -> None:
    for call in left:
        while not account.admits(call.answer_limit):
            if not account.running:
                raise account.cap_error()
            await asyncio.sleep(WAITING_SECONDS)
        account.running += 1
        try:
            reply = await client.ask(call)
        except GaveUp as error:
            load.failures.append(error.reason)
            continue
        finally:
            account.running -= 1
        if reply.failure is not None:
            load.failures.append(reply.failure)
        elif isinstance(reply, StreamedReply):
            load.replies.append(reply)


def in_own_loop(coroutine: Coroutine[Any, Any, Result]) -> Result:
    """Run a coroutine in an event loop of its own thread, and wait.

    Raises:
        StoppedError: SIGTERM or SIGUSR1 came; nothing more is sent.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    future = asyncio.run_coroutine_threadsafe(coroutine, loop)
    try:
        with stop_on_signals() as stop:
            while True:
                try:
                    return future.result(timeout=LOOKING_SECONDS)
                except TimeoutError:
                    if future.done():
                        raise
                    stop.raise_if_stopped()
    finally:
        if not future.done():
            future.cancel()
            _wait_for_the_end(loop)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _wait_for_the_end(loop: asyncio.AbstractEventLoop) -> None:
    """Let cancelled tasks close their connections."""

    async def others() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        await asyncio.wait(tasks, timeout=5) if tasks else None

    with suppress(TimeoutError, CancelledError):
        asyncio.run_coroutine_threadsafe(others(), loop).result(timeout=6)
