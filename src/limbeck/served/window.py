"""Many calls at once: a sliding window over all of them, in a thread with an event loop.

Replies come in the order in which they are finished. A signal or Ctrl-C stops the sending; calls
under way get a few seconds more, since they are paid for. Whatever came is in the ledger, so that
the next run begins with it.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Coroutine, Generator, Sequence
from concurrent.futures import Future
from contextlib import closing
from typing import Any, TypeVar

from limbeck.errors import TeacherError
from limbeck.served.account import Account
from limbeck.served.client import Call, Client
from limbeck.served.ledger import Ledger
from limbeck.served.pace import HaltedError
from limbeck.served.replies import GaveUp, Reply
from limbeck.served.server import Server
from limbeck.stop import stop_on_signals

GRACE_SECONDS = 10.0
"""How long calls under way are waited for when the job stops."""

FAILURES_IN_A_ROW = 3
"""So many calls that fail in all their attempts, with no reply between, are the server's fault."""

GROUP = 64
"""Most replies that are handed over at once."""

Item = TypeVar("Item")
Outcome = tuple[str, "Reply | Exception"]


class Window:
    """The calls of one job.

    Args:
        server: where to.
        ledger: the answers that were paid for.
        job: who asks.
        key: the API key.
    """

    def __init__(self, server: Server, ledger: Ledger, job: str, key: str | None) -> None:
        self._server, self._ledger = server, ledger
        self.account = Account(server, ledger, job)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._client = self._in_loop(self._connect(key)).result()
        self._drivers: set[Future[None]] = set()
        self._closed = False

    def close(self) -> None:
        """Close the connections and end the thread."""
        if self._closed:
            return
        self._closed = True
        for driver in list(self._drivers):  # somebody has left their replies half-way
            self._halt(driver)
        self._in_loop(self._client.close()).result(timeout=GRACE_SECONDS)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=GRACE_SECONDS)
        self._loop.close()

    def replies(self, calls: Sequence[tuple[Item, Call]]) -> Generator[list[tuple[Item, Reply]]]:
        """The reply to every call, in groups, as they come; those that are known come first.

        A call that fails in all its attempts while others succeed gives a reply with `failure`.

        Raises:
            TeacherError: the server does not answer, does not take the key or the requests, or a
                cap is reached.
            StoppedError: SIGTERM or SIGUSR1 came.
        """
        waiting: dict[str, list[Item]] = {}
        unknown: list[Call] = []
        for item, call in calls:
            if (known := self._ledger.find(call.key)) is not None:
                yield [(item, known)]
                continue
            if call.key not in waiting:
                unknown.append(call)
            waiting.setdefault(call.key, []).append(item)
        held: list[tuple[Call, GaveUp]] = []
        by_key = {call.key: call for call in unknown}

        def handed(key: str, reply: Reply) -> list[tuple[Item, Reply]]:
            return [(item, reply) for item in waiting[key]]

        # Closed at once when something is raised, so that nothing more is sent.
        with closing(self._outcomes(unknown)) as ending:
            for outcomes in ending:
                group: list[tuple[Item, Reply]] = []
                for key, outcome in outcomes:
                    if isinstance(outcome, GaveUp):
                        held.append((by_key[key], outcome))
                        in_a_row = len(held) >= FAILURES_IN_A_ROW
                        if in_a_row or outcome.trouble in ("unreachable", "rate limit"):
                            raise self._broken(held)
                    elif isinstance(outcome, Reply):
                        group += handed(key, outcome)
                        for call, error in held:
                            group += handed(call.key, self._failed(error))
                        held.clear()
                    else:
                        raise outcome
                if group:
                    yield group
        if held:
            if not self.account.has_replies:
                raise self._broken(held)
            yield [pair for call, error in held for pair in handed(call.key, self._failed(error))]

    def _failed(self, error: GaveUp) -> Reply:
        self.account.gave_up()
        return Reply("", finished=True, failure=f"no answer ({error.reason})")

    def _broken(self, held: Sequence[tuple[Call, GaveUp]]) -> TeacherError:
        """What to raise when the server, and not a sample, is to blame."""
        call, error = held[-1]
        mends = {
            "unreachable": "start it, or check teacher.base_url",
            "rate limit": "lower teacher.concurrency or set teacher.requests_per_minute",
            "server": "look at the server's log, or raise teacher.timeout_seconds",
            "request": "check teacher.model and what teacher.extra_body asks for",
        }
        many = f", {len(held)} requests in a row" if len(held) > 1 else ""
        return TeacherError(
            f"the server does not answer ({error.reason}{many})",
            where=f"{self._server.base_url}, sample {call.where}",
            mend=mends[error.trouble],
        )

    def _outcomes(self, calls: Sequence[Call]) -> Generator[list[Outcome]]:
        """What became of every call, as they end."""
        if not calls:
            return
        ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        driver = self._in_loop(self._drive(calls, ended))
        self._drivers.add(driver)
        left = len(calls)
        with stop_on_signals() as stop:
            try:
                while left:
                    group = _taken(ended)
                    left -= len(group)
                    if group:
                        yield group
                    if stop.signal_name is not None:
                        self._halt(driver)
                        while group := _taken(ended, wait=False):
                            yield group
                        stop.raise_if_stopped()
                    if left and driver.done() and ended.empty():
                        driver.result()
                        raise AssertionError("calls ended without an outcome")
            finally:
                self._halt(driver)
                self._drivers.discard(driver)

    def _halt(self, driver: Future[None]) -> None:
        """Send nothing more, and give the calls under way a little time."""
        if driver.done():
            return
        self._loop.call_soon_threadsafe(self._client.pace.halted.set)
        try:
            driver.result(timeout=GRACE_SECONDS)
        except TimeoutError:
            driver.cancel()
        finally:
            self._loop.call_soon_threadsafe(self._client.pace.halted.clear)

    async def _connect(self, key: str | None) -> Client:
        return Client(self._server, self.account, key)

    async def _drive(self, calls: Sequence[Call], ended: queue.SimpleQueue[Outcome]) -> None:
        """Start calls while there is room for them, and wait for all."""
        running: set[asyncio.Task[None]] = set()
        halted = self._client.pace.halted
        try:
            for call in calls:
                while len(running) >= self._server.concurrency or ended.qsize() > GROUP:
                    await asyncio.wait(
                        running or {asyncio.create_task(asyncio.sleep(0.05))},
                        return_when=asyncio.FIRST_COMPLETED,
                        timeout=0.05,
                    )
                    running = {task for task in running if not task.done()}
                while not halted.is_set() and not self.account.admits(call.answer_limit):
                    if not running:
                        ended.put((call.key, self.account.cap_error()))
                        return
                    _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                if halted.is_set():
                    break
                running.add(asyncio.create_task(self._one(call, ended)))
                self.account.running += 1
            if running:
                await asyncio.wait(running)
        finally:
            for task in running:
                task.cancel()

    async def _one(self, call: Call, ended: queue.SimpleQueue[Outcome]) -> None:
        try:
            # Another process may have paid for it since.
            known = await asyncio.to_thread(self._ledger.find, call.key)
            ended.put((call.key, known or await self._client.ask(call)))
        except HaltedError:
            pass
        except Exception as error:
            ended.put((call.key, error))
        finally:
            self.account.running -= 1

    def _in_loop(self, coroutine: Coroutine[Any, Any, Item]) -> Future[Item]:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)


def _taken(ended: queue.SimpleQueue[Outcome], *, wait: bool = True) -> list[Outcome]:
    """What is there, or nothing after a moment in which signals are looked for."""
    taken: list[Outcome] = []
    try:
        if wait:
            taken.append(ended.get(timeout=0.2))
        while len(taken) < GROUP:
            taken.append(ended.get_nowait())
    except queue.Empty:
        pass
    return taken
