"""lmms-eval in a process of its own, with the Python that has it."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from limbeck.errors import TeacherError, UsageError
from limbeck.recipe.public import Public
from limbeck.teachers.workers.process import WorkerProcess

PYTHON = "LIMBECK_LMMS_EVAL_PYTHON"
"""Environment variable with the Python that has lmms-eval."""


class LmmsEval:
    """A running worker that knows the section's tasks."""

    def __init__(self, worker: WorkerProcess, settings: Public) -> None:
        self._worker, self._settings = worker, settings

    def collect(self, folder: Path) -> dict[str, Any]:
        """Let it write what the tasks ask; which tasks, versions and counts."""
        return self._ask("collect", folder=str(folder))

    def score(self, answers: Path) -> dict[str, Any]:
        """Let it score a file of answers."""
        return self._ask("score", answers=str(answers))

    def _ask(self, do: str, **fields: Any) -> dict[str, Any]:
        settings = self._settings
        include = settings.include and str(Path(settings.include).expanduser().resolve())
        found, _ = self._worker.ask(
            do, tasks=list(settings.tasks), limit=settings.limit, include=include, **fields
        )
        return {key: value for key, value in found.items() if key not in ("id", "arrays")}


@contextmanager
def lmms_eval(settings: Public) -> Generator[LmmsEval]:
    """Start it, and end it.

    Raises:
        UsageError: the Python does not have it.
        TeacherError: it fails.
    """
    python = settings.python or os.environ.get(PYTHON, "")
    worker = WorkerProcess.of(
        "lmms_eval_worker.py",
        python=python,
        timeout_seconds=settings.timeout_seconds,
        called="lmms-eval's process",
        section="public",
    )
    try:
        try:
            worker.ask("load")
        except TeacherError as error:
            if "ModuleNotFoundError" not in error.what:
                raise
            raise UsageError(
                f"{python or 'the Python that runs Limbeck'} cannot run lmms-eval ({error.what})",
                where="public.python",
                mend=f"install lmms-eval in an environment of its own and name its Python there or "
                f"in {PYTHON}",
            ) from error
        yield LmmsEval(worker, settings)
    finally:
        worker.close()
