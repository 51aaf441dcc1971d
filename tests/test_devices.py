"""Which device a run uses, found without torch."""

from __future__ import annotations

import pytest

from limbeck.stages import device_of


def test_a_named_device_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert [device_of(name) for name in ("cpu", "mps", "cuda:3", "cuda")] == [
        "cpu",
        "mps",
        "cuda:3",
        "cuda",
    ]


def test_every_rank_gets_its_own_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_of("cuda") == "cuda:1"
    assert device_of("cpu") == "cpu"
