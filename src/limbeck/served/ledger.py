"""The answers that were paid for: append-only JSON lines, one file a process.

    {"key": ..., "job": ..., "requests": 2, "retries": 1, "prompt_tokens": 310,
     "answer_tokens": 24, "cost": 0.0004, "reply": {...}}

A row with a reply answers every later call of the same key, whatever asks: a run that goes on after
a kill, a stage with other checks, an evaluation after labelling. A row without one is an attempt
that failed and that the server may ask money for; `failed` says how. Long replies (those with
log-probabilities) are compressed, as `packed`.

Several processes may use one folder: each appends to a file of its own and reads those of the
others. A row that was cut by a kill counts for nothing.
"""

from __future__ import annotations

import base64
import json
import threading
import time
import uuid
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from limbeck import journal
from limbeck.progress import say
from limbeck.served.replies import Reply
from limbeck.store import write_json

ABOUT = "teacher.json"
"""Whose answers a folder holds, for people."""

PACKED_ABOVE_BYTES = 2048
SECONDS_BETWEEN_LOOKS = 2.0
"""How often the files of other processes are read on."""


@dataclass
class Used:
    """What one job has used, in all its runs and processes."""

    requests: int = 0
    retries: int = 0
    replies: int = 0
    failures: int = 0
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cost: float = 0.0
    dearest: float = 0.0


class Ledger:
    """The paid answers of one teacher.

    Args:
        folder: where they are kept; None keeps nothing but the sums of this process.
        about: whose they are.
    """

    def __init__(self, folder: Path | None, about: dict[str, Any] | None = None) -> None:
        self._folder = folder
        self._own = folder / f"answers-{uuid.uuid4().hex}.jsonl" if folder else None
        self._places: dict[str, tuple[Path, int, int]] = {}
        self._read_to: dict[Path, int] = {}
        self._used: dict[str, Used] = {}
        self._lock = threading.Lock()
        self._looked = -float("inf")
        if folder is not None and not (folder / ABOUT).is_file():
            write_json(folder / ABOUT, about or {})
        self._look()

    def find(self, key: str) -> Reply | None:
        """The reply to a call, if it was paid for already."""
        with self._lock:
            if key not in self._places:
                self._look()
            place = self._places.get(key)
        if place is None:
            return None
        path, start, length = place
        with path.open("rb") as stream:
            stream.seek(start)
            return _reply(json.loads(stream.read(length)))

    def record(
        self,
        key: str,
        job: str,
        *,
        requests: int,
        retries: int,
        prompt_tokens: int,
        answer_tokens: int,
        cost: float,
        reply: Reply | None = None,
        failed: str | None = None,
    ) -> None:
        """Keep what one call cost, and its reply if there is one.

        Raises:
            DataError: the disk does not take it; names the path.
        """
        row: dict[str, Any] = {
            "key": key,
            "job": job,
            "requests": requests,
            "retries": retries,
            "prompt_tokens": prompt_tokens,
            "answer_tokens": answer_tokens,
            "cost": cost,
        }
        if failed is not None:
            row["failed"] = failed
        if reply is not None:
            row |= _kept(reply)
        with self._lock:
            if self._own is None:
                self._count(row)
                return
            journal.append(self._own, [row])
            self._read_on(self._own)

    def used(self, job: str, *, now: bool = False) -> Used:
        """What a job has used; that of other processes up to a moment ago, or up to `now`."""
        with self._lock:
            if now:
                self._looked = -float("inf")
            self._look()
            return Used(**asdict(self._used.get(job, Used())))

    def _look(self) -> None:
        """Read what was appended to the files since they were last read."""
        now = time.monotonic()
        if self._folder is None or now - self._looked < SECONDS_BETWEEN_LOOKS:
            return
        self._looked = now
        for path in sorted(self._folder.glob("answers-*.jsonl")):
            self._read_on(path)

    def _read_on(self, path: Path) -> None:
        start = self._read_to.get(path, 0)
        with path.open("rb") as stream:
            stream.seek(start)
            content = stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines(keepends=True):
            try:
                row = json.loads(line)
                if "reply" in row or "packed" in row:
                    self._places.setdefault(row["key"], (path, start, len(line)))
                self._count(row)
            except (ValueError, KeyError, TypeError):
                say(f"  warning: a damaged row is left out ({path}, byte {start})")
            start += len(line)
        self._read_to[path] = start

    def _count(self, row: dict[str, Any]) -> None:
        used = self._used.setdefault(row["job"], Used())
        used.requests += row["requests"]
        used.retries += row["retries"]
        used.prompt_tokens += row["prompt_tokens"]
        used.answer_tokens += row["answer_tokens"]
        used.cost += row["cost"]
        used.dearest = max(used.dearest, row["cost"])
        used.replies += "failed" not in row
        used.failures += bool(row.get("refused"))


def _kept(reply: Reply) -> dict[str, Any]:
    """The part of a row that holds a reply."""
    content = {name: value for name, value in asdict(reply).items() if value is not None}
    refused = {"refused": True} if reply.failure else {}
    text = json.dumps(content, ensure_ascii=False)
    if len(text) <= PACKED_ABOVE_BYTES:
        return {"reply": content, **refused}
    packed = base64.b85encode(zlib.compress(text.encode(), 6)).decode()
    return {"packed": packed, **refused}


def _reply(row: dict[str, Any]) -> Reply:
    if "packed" in row:
        return Reply(**json.loads(zlib.decompress(base64.b85decode(row["packed"]))))
    return Reply(**row["reply"])
