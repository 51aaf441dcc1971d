"""A process that answers one message with one, as `worker_messages.py` describes them."""

from __future__ import annotations

import logging
import os
import queue
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from limbeck.errors import TeacherError
from limbeck.teachers.workers.worker_messages import (
    Arrays,
    BrokenMessageError,
    read_message,
    write_message,
)

LINES_KEPT, LINES_SHOWN = 50, 3
SECONDS_TO_END = 20.0
"""More than `worker_messages.SECONDS_FOR_FAREWELL`."""

log = logging.getLogger(__name__)


class WorkerProcess:
    """A running worker; everything that can go wrong with it is a TeacherError.

    Args:
        command: what to start; its standard error goes to the log.
        environment: of the process; None for this process's own.
        timeout_seconds: longest wait for a reply.
        called: what it is called in errors.
        section: of the recipe, whose `python` and `timeout_seconds` these are.

    Raises:
        TeacherError: it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        environment: Mapping[str, str] | None = None,
        timeout_seconds: float,
        called: str = "the teacher's process",
        section: str = "teacher",
    ) -> None:
        self.timeout_seconds = timeout_seconds
        self._called, self._section = called, section
        self._asked = 0
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        try:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,  # a signal to our group is ours to act on
            )
        except OSError as error:
            raise TeacherError(
                f"cannot be started ({error.strerror})",
                where=str(command[0]),
                mend=f"set {section}.python to a Python with the packages that it needs",
            ) from error
        self._outbox: queue.Queue[tuple[dict[str, Any], Arrays] | None] = queue.Queue()
        self._inbox: queue.Queue[Any] = queue.Queue()
        # In threads: a worker that hangs must not hold up who waits for it, with its pipes full.
        work = (self._write, self._read, self._listen)
        self._threads = [threading.Thread(target=each, daemon=True) for each in work]
        for thread in self._threads:
            thread.start()

    @classmethod
    def of(
        cls,
        script: str,
        *,
        python: str,
        timeout_seconds: float,
        environment: Mapping[str, str] = os.environ,
        **names: str,
    ) -> WorkerProcess:
        """The worker of a file beside this one, run by `python` ("": by our own)."""
        environment = dict(environment)
        if python:  # another environment's modules are not ours
            for name in ("PYTHONPATH", "PYTHONHOME"):
                environment.pop(name, None)
        command = [
            os.path.expanduser(python) or sys.executable,
            "-u",
            Path(__file__).parent / script,
        ]
        return cls(command, environment=environment, timeout_seconds=timeout_seconds, **names)

    def load(self, backend: str, python: str, **fields: Any) -> tuple[Any, Any]:
        """Let it load its model; where its Python lacks the packages, say which one has to have it.

        Raises:
            TeacherError: as `ask`.
        """
        try:
            return self.ask("load", **fields)
        except TeacherError as error:
            if "ModuleNotFoundError" not in error.what:
                raise
            raise TeacherError(
                f"{python or sys.executable} cannot run {backend} ({error.what})",
                where=f"{self._section}.python",
                mend=f"install {backend} in an environment of its own and name its Python",
            ) from error

    def ask(self, do: str, arrays: Arrays | None = None, **fields: Any) -> tuple[Any, Any]:
        """What it replies: fields and arrays.

        Raises:
            TeacherError: it says that it cannot, replies nonsense, or not in time, or has ended;
                in the last three cases it is killed.
        """
        if self.process.poll() is not None and self._inbox.empty():
            raise self._ended()
        self._asked += 1
        self._outbox.put(({"id": self._asked, "do": do, **fields}, arrays or {}))
        try:
            reply = self._inbox.get(timeout=self.timeout_seconds)
        except queue.Empty:
            raise self._failed(
                f"did not answer within {self.timeout_seconds:g} seconds",
                f"raise {self._section}.timeout_seconds, or use a smaller model",
            ) from None
        if reply is None:
            raise self._ended()
        if isinstance(reply, BrokenMessageError):
            raise self._failed(f"answered with what is no message: {reply}")
        found, arrays = reply
        if found.get("id") != self._asked:
            raise self._failed(
                f"answered message {found.get('id')!r} when {self._asked} was asked last"
            )
        if "error" in found:
            raise TeacherError(str(found["error"]), where=f"{self._called}, {do}")
        return found, arrays

    def close(self) -> None:
        """End it: by the end of its input, or by force. Can be called again."""
        self._outbox.put(None)
        try:
            self.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._kill()
        for thread in self._threads:
            thread.join(SECONDS_TO_END)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            with suppress(OSError, ValueError):
                assert stream is not None
                stream.close()

    def _failed(self, what: str, mend: str | None = None) -> TeacherError:
        self._kill()
        return self._with_last_words(what, mend)

    def _ended(self) -> TeacherError:
        """It has closed its output, so it is about to end, and how says more."""
        try:
            code = self.process.wait(SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return self._failed("has closed its output")
        self._kill()  # what it started may have outlived it
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return self._with_last_words(f"has ended ({how})")

    def _with_last_words(self, what: str, mend: str | None = None) -> TeacherError:
        self.close()
        said = " | ".join(list(self._lines)[-LINES_SHOWN:])
        if said:
            what += f"; it last said: {said}"
        return TeacherError(f"{self._called} {what}", mend=mend)

    def _kill(self) -> None:
        """With all that it started: it leads a group of its own."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def _write(self) -> None:
        stream = self.process.stdin
        assert stream is not None
        try:
            while (message := self._outbox.get()) is not None:
                write_message(stream, *message)
            stream.close()
        except (OSError, ValueError):
            return  # it has ended, which the reading side tells

    def _read(self) -> None:
        stream = self.process.stdout
        assert stream is not None
        try:
            while (message := read_message(stream)) is not None:
                self._inbox.put(message)
            self._inbox.put(None)
        except BrokenMessageError as error:
            self._inbox.put(error)

    def _listen(self) -> None:
        stream = self.process.stderr
        assert stream is not None
        for line in stream:
            text = line.decode(errors="replace").strip()
            if text:
                self._lines.append(text)
                log.debug("worker: %s", text)
