"""The ledger: what was paid for is found again, whatever a kill left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from limbeck.served.ledger import Ledger, Used
from limbeck.served.replies import Reply

LONG = Reply("text", True, 3, 4, logprobs=[{"token": "t", "logprob": -0.25 - i} for i in range(99)])


def record(ledger: Ledger, key: str, job: str = "job", **fields: Any) -> None:
    given = {"requests": 2, "retries": 1, "prompt_tokens": 3, "answer_tokens": 4, "cost": 0.5}
    ledger.record(key, job, **{**given, **fields})


@pytest.mark.parametrize(
    "reply", [Reply("text ü", False, 3, 4), LONG, Reply("", True, failure="x")]
)
def test_a_reply_is_found_by_another_process(tmp_path: Path, reply: Reply) -> None:
    ledger = Ledger(tmp_path, {"model": "m"})
    record(ledger, "a", reply=reply)
    assert ledger.find("a") == reply
    other = Ledger(tmp_path)
    assert other.find("a") == reply
    assert other.find("b") is None
    assert '"model": "m"' in (tmp_path / "teacher.json").read_text()


def test_long_replies_are_compressed(tmp_path: Path) -> None:
    record(Ledger(tmp_path), "a", reply=LONG)
    (path,) = tmp_path.glob("answers-*.jsonl")
    assert path.stat().st_size < len(str(LONG)) / 4


def test_what_a_job_used_counts_failed_attempts_and_earlier_processes(tmp_path: Path) -> None:
    first = Ledger(tmp_path)
    record(first, "a", reply=Reply("a", True, 3, 4))
    record(first, "a", "other", reply=Reply("a", True, 3, 4))
    record(first, "b", failed="no response", requests=1, retries=0, prompt_tokens=0, cost=0.75)
    second = Ledger(tmp_path)
    record(second, "b", reply=Reply("", True, failure="refused"), cost=0, requests=1)
    used = second.used("job")
    expected = Used(4, 2, 2, 1, prompt_tokens=6, answer_tokens=12, cost=1.25, dearest=0.75)
    assert used == expected
    assert second.used("nobody") == Used()


@pytest.mark.parametrize(
    "torn", [b'{"key": "c", "jo', b"\x00\x00\x00\n", b"[]\n", b'{"key": "c"}\n']
)
def test_torn_and_damaged_rows_cost_themselves_only(
    tmp_path: Path, torn: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    record(Ledger(tmp_path), "a", reply=Reply("a", True))
    (path,) = tmp_path.glob("answers-*.jsonl")
    row = path.read_bytes()
    path.write_bytes(row + torn)
    again = Ledger(tmp_path)
    assert again.find("a") == Reply("a", True)
    record(again, "d", reply=Reply("d", True))
    assert Ledger(tmp_path).find("d") == Reply("d", True)
    assert ("damaged row" in capsys.readouterr().err) is torn.endswith(b"\n")


def test_without_a_folder_only_sums_are_kept() -> None:
    ledger = Ledger(None)
    record(ledger, "a", reply=Reply("a", True, 3, 4))
    assert ledger.find("a") is None
    assert ledger.used("job").cost == 0.5
