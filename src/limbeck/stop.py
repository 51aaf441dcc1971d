"""SIGTERM and SIGUSR1 ask a long stage to save and stop (exit code 75)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from limbeck.errors import StoppedError


class StopRequest:
    """Whether a signal has arrived."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def receive(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler: only notes the signal; the loop saves between two steps."""
        self.signal_name = signal.Signals(number).name

    def raise_if_stopped(self) -> None:
        """Stop here, where everything that is finished has been kept or is about to be.

        Raises:
            StoppedError: a signal has arrived.
        """
        if self.signal_name is not None:
            raise StoppedError(
                f"stopped by {self.signal_name}; what is finished is kept",
                mend="run the same command to go on",
            )


class StoppedAnywhere(KeyboardInterrupt):
    """A signal arrived where nothing has to be saved first; unwinds as Ctrl-C does."""


@contextmanager
def unwind_on_signals() -> Iterator[None]:
    """End the body as Ctrl-C would on SIGTERM and SIGUSR1, outside of `stop_on_signals`.

    So that locks, workers and temporary files are left in order wherever the signal comes.

    Raises:
        StoppedAnywhere: a signal has arrived.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    own = os.getpid()

    def unwind(number: int, _frame: FrameType | None) -> None:
        if os.getpid() != own:  # a forked worker has no one to unwind to
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        raise StoppedAnywhere(signal.Signals(number).name)

    with _handled(unwind):
        yield


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGUSR1 while the body runs (in the main thread), then restore."""
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    with _handled(request.receive):
        yield request


@contextmanager
def _handled(receive: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGUSR1)
    previous = [signal.signal(number, receive) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
