"""What a job has used of a server, and whether it may use more."""

from __future__ import annotations

import threading

from limbeck.errors import TeacherError
from limbeck.served.ledger import Ledger
from limbeck.served.replies import Reply, TryAgain
from limbeck.served.server import Server


class Account:
    """Counts one job's requests and money; its earlier runs and other processes count too.

    Args:
        server: with its prices and caps.
        ledger: where what was used is kept.
        job: whose account it is.
        keeps_replies: a reply answers later calls of its key; else only what it cost is kept.
    """

    def __init__(
        self, server: Server, ledger: Ledger, job: str, *, keeps_replies: bool = True
    ) -> None:
        self._keeps_replies = keeps_replies
        self._server, self._ledger, self._job = server, ledger, job
        self.running = 0
        """Calls under way, retries and pauses included."""
        self._under_way = 0
        self._given_up = 0
        self._lock = threading.Lock()

    def admits(self, answer_limit: int, *, again: bool = False) -> bool:
        """Whether one more call (or attempt) stays within the caps.

        Every call under way is taken to become as dear as the dearest yet.

        Args:
            answer_limit: most tokens of an answer, to guess a price before any is known.
            again: a call that is under way asks to try again.
        """
        used = self._ledger.used(self._job)
        most, cap = self._server.max_requests, self._server.max_cost
        on_the_way = self._under_way if again else max(self._under_way, self.running)
        if most is not None and used.requests + on_the_way + 1 > most:
            return False
        if cap is None:
            return True
        calls = self.running + (not again)
        if not used.dearest and calls > 1:
            return False  # what pictures cost is known when the first reply is here
        expected = used.dearest or self._server.cost(0, answer_limit)
        return used.cost + calls * expected <= cap * (1 + 1e-9)

    def cap_error(self) -> TeacherError:
        """What to raise when nothing more is admitted."""
        used, most = self._ledger.used(self._job), self._server.max_requests
        if most is not None and used.requests >= most:
            return TeacherError(
                f"{used.requests:,} requests were sent and {most:,} are allowed",
                where="teacher.max_requests",
                mend="raise it; what was answered is kept",
            )
        return TeacherError(
            f"{used.cost:.4f} are spent, and one more request may go above {self._server.max_cost}",
            where="teacher.max_cost",
            mend="raise it; what was answered is kept",
        )

    def sent(self) -> None:
        """One request was sent; it counts at once, and is kept with what comes of it."""
        with self._lock:
            self._under_way += 1

    def paid(self, key: str, reply: Reply, *, requests: int, retries: int) -> None:
        """Keep a reply and what it cost."""
        cost = self._server.cost(reply.prompt_tokens or 0, reply.answer_tokens or 0)
        if reply.prompt_tokens is None and reply.failure is None:
            cost = self._expected()  # the server does not say
        kept = reply if self._keeps_replies else None
        self._record(key, requests, retries, cost, reply=kept, tokens_of=reply)

    def lost(self, key: str, failed: TryAgain, *, requests: int, retries: int) -> None:
        """Keep what attempts that failed have cost, or may have."""
        reply, cost = failed.reply, self._expected() if failed.billed else 0.0
        if reply is not None and reply.prompt_tokens is not None:
            cost = self._server.cost(reply.prompt_tokens, reply.answer_tokens or 0)
        self._record(key, requests, retries, cost, failed=failed.reason, tokens_of=reply)

    def gave_up(self) -> None:
        """One sample gets no answer."""
        self._given_up += 1

    def facts(self) -> dict[str, float]:
        """For the live table and the manifest."""
        used = self._ledger.used(self._job, now=not self.running)
        facts: dict[str, float] = {
            "requests": used.requests + self._under_way,
            "retries": used.retries,
            "failures": used.failures + self._given_up,
            "prompt_tokens": used.prompt_tokens,
            "answer_tokens": used.answer_tokens,
        }
        server = self._server
        if server.price_per_million_prompt_tokens + server.price_per_million_answer_tokens:
            facts["cost"] = round(used.cost, 6)
        return facts

    @property
    def has_replies(self) -> bool:
        """Whether the server has ever answered this job."""
        return self._ledger.used(self._job).replies > 0

    def _expected(self) -> float:
        return self._ledger.used(self._job).dearest

    def _record(
        self,
        key: str,
        requests: int,
        retries: int,
        cost: float,
        *,
        reply: Reply | None = None,
        failed: str | None = None,
        tokens_of: Reply | None = None,
    ) -> None:
        counted = reply or tokens_of
        self._ledger.record(
            key,
            self._job,
            requests=requests,
            retries=retries,
            prompt_tokens=(counted.prompt_tokens or 0) if counted else 0,
            answer_tokens=(counted.answer_tokens or 0) if counted else 0,
            cost=cost,
            reply=reply,
            failed=failed,
        )
        with self._lock:
            self._under_way -= requests
