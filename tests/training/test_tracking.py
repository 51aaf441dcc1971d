"""Trackers get the rows of metrics.jsonl; a missing package is an error before training."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from limbeck.errors import UsageError
from limbeck.training.tracking import flatten, open_tracker

ROW = {"step": 10, "loss": 1.5, "losses": {"cross_entropy": 2.0}}


@pytest.mark.parametrize("kind", ["trackio", "wandb"])
def test_rows_reach_the_tracker_under_flat_names(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any, Any]] = []
    module = ModuleType(kind)
    module.init = lambda **options: calls.append(("init", options, None))  # type: ignore[attr-defined]
    module.log = lambda values, step: calls.append(("log", values, step))  # type: ignore[attr-defined]
    module.finish = lambda: calls.append(("finish", None, None))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, kind, module)
    tracker = open_tracker(kind, "student-seed0", tmp_path)
    assert tracker is not None
    tracker.log(ROW)
    tracker.finish()
    assert [call[0] for call in calls] == ["init", "log", "finish"]
    assert calls[0][1]["name"] == "student-seed0"
    assert calls[1][1:] == ({"step": 10, "loss": 1.5, "losses/cross_entropy": 2.0}, 10)


def test_no_tracker_is_the_default(tmp_path: Path) -> None:
    assert open_tracker("none", "x", tmp_path) is None


def test_a_missing_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UsageError, match=r"limbeck\[wandb\]"):
        open_tracker("wandb", "x", tmp_path)


def test_nested_values_are_flattened() -> None:
    assert flatten({"a": 1, "b": {"c": 2}}) == {"a": 1, "b/c": 2}
