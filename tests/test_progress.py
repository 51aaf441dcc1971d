"""What a person sees while a long stage runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.live import Live

from limbeck import progress
from limbeck.progress import Meter, meter


def test_the_live_table_shows_rate_failures_and_cost() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    with Live(console=console, auto_refresh=False) as live:
        shown = Meter("labelling", 1000, 400, live)
        shown.advance(100, facts={"unfit": 3, "retries": 17, "cost": 1.23456})
        live.refresh()
    text = screen.getvalue()
    assert "labelling" in text
    assert "500/1000" in text
    for wanted in ("rate", "unfit", "retries", "cost", "17", "1.2346", "/s"):
        assert wanted in text, wanted


def test_without_a_terminal_a_line_says_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with meter("labelling", 10, done=4) as shown:
        shown.advance(3, facts={"unfit": 1, "cost": 0.5})
        shown.advance(3, facts={"unfit": 2, "cost": 0.75})
    lines = capsys.readouterr().err.splitlines()
    assert "labelling 7/10" in lines[0]
    assert "s left" in lines[0]
    assert "unfit 1, cost 0.5000" in lines[0]
    assert "unfit 2, cost 0.7500" in lines[1]
