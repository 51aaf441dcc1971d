"""When the next request may be sent: the rate, pauses that the server asks for, and back-off."""

from __future__ import annotations

import asyncio
import random
import time

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0


class HaltedError(Exception):
    """The job stops, so nothing more is sent."""


class Pace:
    """Spaces the requests of one process; its waits end at once when the job is halted.

    Args:
        requests_per_minute: the limit, or None.
    """

    def __init__(self, requests_per_minute: float | None) -> None:
        self._spacing = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next = 0.0
        self._random = random.Random()  # nothing that is kept depends on it
        self.halted = asyncio.Event()

    async def turn(self) -> None:
        """Wait until a request may be sent.

        Raises:
            HaltedError: the job stops.
        """
        while (wait := self._next - time.monotonic()) > 0:
            await self.rest(wait)
        if self.halted.is_set():
            raise HaltedError
        self._next = max(self._next, time.monotonic()) + self._spacing

    def pause(self, seconds: float) -> None:
        """Send nothing for so long: the server has said so, and means all requests."""
        self._next = max(self._next, time.monotonic() + seconds)

    def backoff(self, attempt: int) -> float:
        """Seconds before the next attempt: doubling, with half of it left to chance."""
        longest = min(LONGEST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2**attempt)
        return longest * self._random.uniform(0.5, 1.0)

    async def rest(self, seconds: float) -> None:
        """Wait.

        Raises:
            HaltedError: the job stops.
        """
        try:
            await asyncio.wait_for(self.halted.wait(), seconds)
        except TimeoutError:
            return
        raise HaltedError
