"""Progress on stderr: a live bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

console = Console(stderr=True, highlight=False, soft_wrap=True)

SECONDS_BETWEEN_LINES = 15.0


def say(text: str) -> None:
    """Print one line to stderr, as it is (no markup)."""
    console.print(text, markup=False)


class Meter:
    """Counts finished items; `advance` may carry a short note such as a loss."""

    def __init__(self, title: str, total: int, done: int, bar: Progress | None) -> None:
        self._title, self._total, self._done, self._bar = title, total, done, bar
        self._started, self._first = time.monotonic(), done
        self._printed = self._started
        self._task = bar.add_task(title, total=total, completed=done, note="") if bar else None

    def advance(self, count: int = 1, note: str = "") -> None:
        """Count `count` more items as finished."""
        self._done += count
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, advance=count, note=note)
            return
        now = time.monotonic()
        if now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            rate = (self._done - self._first) / max(now - self._started, 1e-9)
            left = (self._total - self._done) / rate if rate else 0.0
            say(f"  {self._title} {self._done}/{self._total}, {left:.0f} s left  {note}".rstrip())


@contextmanager
def meter(title: str, total: int, *, done: int = 0) -> Iterator[Meter]:
    """A progress display for `total` items, of which `done` were finished by an earlier run."""
    if not sys.stderr.isatty():
        yield Meter(title, total, done, None)
        return
    columns = (
        TextColumn("  {task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        yield Meter(title, total, done, bar)
