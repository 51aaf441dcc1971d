"""Progress on stderr: a live bar on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

console = Console(stderr=True, highlight=False, soft_wrap=True)

SECONDS_BETWEEN_LINES = 15.0

COLUMNS = (
    TextColumn("  {task.description}"),
    BarColumn(bar_width=24),
    MofNCompleteColumn(),
    TimeElapsedColumn(),
    TimeRemainingColumn(),
    TextColumn("{task.fields[note]}"),
)


def say(text: str) -> None:
    """Print one line to stderr, as it is (no markup)."""
    console.print(text, markup=False)


Facts = Mapping[str, float]
"""What is shown beside the count, such as failures, retries, cost; numbers by name."""


class Meter:
    """Counts finished items; `advance` may carry a short note such as a loss, or facts."""

    def __init__(self, title: str, total: int, done: int, live: Live | None) -> None:
        self._title, self._total, self._done, self._live = title, total, done, live
        self._started, self._first = time.monotonic(), done
        self._printed = self._started
        self._bar = Progress(*COLUMNS, console=console)
        self._task = self._bar.add_task(title, total=total, completed=done, note="")
        self._facts: dict[str, float] = {}
        if live is not None:
            live.update(self._bar)

    def advance(self, count: int = 1, note: str = "", *, facts: Facts | None = None) -> None:
        """Count `count` more items as finished."""
        self._done += count
        self._facts |= facts or {}
        if self._live is not None:
            self._bar.update(self._task, advance=count, note=note)
            self._live.update(Group(self._bar, self._table()) if self._facts else self._bar)
            return
        now = time.monotonic()
        if now - self._printed >= SECONDS_BETWEEN_LINES:
            self._printed = now
            left = (self._total - self._done) / self._rate if self._rate else 0.0
            told = ", ".join(f"{name} {value}" for name, value in self._readable().items())
            say(
                f"  {self._title} {self._done}/{self._total}, {self._rate:.3g}/s, {left:.0f} s left"
                f"  {note} {told}".rstrip()
            )

    @property
    def _rate(self) -> float:
        return (self._done - self._first) / max(time.monotonic() - self._started, 1e-9)

    def _readable(self) -> dict[str, str]:
        return {
            name.replace("_", " "): f"{value:,.4f}" if name == "cost" else f"{value:,.6g}"
            for name, value in self._facts.items()
        }

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=True, header_style="dim")
        cells = {"rate": f"{self._rate:.3g}/s", **self._readable()}
        for name in cells:
            table.add_column(name, justify="right")
        table.add_row(*cells.values())
        return table


@contextmanager
def meter(title: str, total: int, *, done: int = 0) -> Iterator[Meter]:
    """A progress display for `total` items, of which `done` were finished by an earlier run."""
    if not sys.stderr.isatty():
        yield Meter(title, total, done, None)
        return
    with Live(console=console, transient=True, refresh_per_second=8) as live:
        yield Meter(title, total, done, live)
