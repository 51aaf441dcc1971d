"""Models in processes of their own, asked one after the other."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from limbeck.compare.models import Compared, Comparison
from limbeck.errors import TeacherError
from limbeck.recipe import Recipe
from limbeck.records import Sample
from limbeck.teachers.workers.process import WorkerProcess

TIMEOUT_SECONDS = 1800.0
MAX_WAITING = 16
"""More questions than this at once are turned away."""


class BusyError(TeacherError):
    """Too many questions wait already."""


@dataclass(frozen=True)
class Reply:
    """What one model said, how long it took, and the peak of its process's memory meanwhile.

    `seconds` hold the opening of the picture and all new tokens, not the loading of the model;
    `memory_mib` is None for a model that runs elsewhere.
    """

    text: str
    tokens: int
    finished: bool
    failure: str | None
    seconds: float
    memory_mib: float | None
    memory_kind: str | None


class Answerer:
    """One model and its process, started when it is first asked, and again should it have died."""

    def __init__(self, recipe: Recipe, names: Sequence[str], model: Compared) -> None:
        self.model = model
        self._load: dict[str, Any] = {
            "recipe": recipe.model_dump(mode="json"),
            "names": list(names),
            "name": model.name,
        }
        self._process: WorkerProcess | None = None
        self._about: dict[str, Any] = {}

    def answer(self, sample: Sample, max_new_tokens: int) -> Reply:
        """Ask it.

        Raises:
            TeacherError: it cannot be loaded, or failed; the next question starts it anew.
        """
        process = self._started()
        try:
            found, _ = process.ask("answer", sample=asdict(sample), max_new_tokens=max_new_tokens)
        except TeacherError:
            if process.process.poll() is not None:
                self.close()
            raise
        found = {key: value for key, value in found.items() if key not in ("id", "arrays")}
        return Reply(**found, memory_kind=self._about["memory_kind"])

    def close(self) -> None:
        """End its process."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _started(self) -> WorkerProcess:
        if self._process is None:
            # -P: a file in the current folder must not be imported in place of a library.
            command = [sys.executable, "-P", "-m", "limbeck.compare.worker"]
            process = WorkerProcess(
                command, environment=dict(os.environ), timeout_seconds=TIMEOUT_SECONDS
            )
            try:
                self._about, _ = process.ask("load", **self._load)
            except TeacherError:
                process.close()
                raise
            self._process = process
        return self._process


class Answerers:
    """All models of a comparison; one is at work at a time, so that none slows another.

    Use as a context manager: leaving it ends the processes.
    """

    def __init__(
        self, recipe: Recipe, comparison: Comparison, max_new_tokens: int | None = None
    ) -> None:
        names = [model.name for model in comparison.models]
        self.comparison = comparison
        self.max_new_tokens = max_new_tokens or recipe.evaluate.max_new_tokens
        self._models = {m.name: Answerer(recipe, names, m) for m in comparison.models}
        self._one_at_a_time = threading.Lock()
        self._waiting = threading.Semaphore(MAX_WAITING)

    def __enter__(self) -> Answerers:
        return self

    def __exit__(self, *_: object) -> None:
        for model in self._models.values():
            model.close()

    def answer(self, name: str, sample: Sample) -> Reply:
        """Let a model answer.

        Raises:
            KeyError: there is no such model.
            TeacherError: it cannot; a `BusyError` where too many wait.
        """
        model = self._models[name]
        if not self._waiting.acquire(blocking=False):
            raise BusyError("too many questions are waiting", mend="ask again in a moment")
        try:
            with self._one_at_a_time:
                return model.answer(sample, self.max_new_tokens)
        finally:
            self._waiting.release()
