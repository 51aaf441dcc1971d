"""The machine that a benchmark ran on, described without torch, so that it can be fingerprinted.

Only what can change a measurement and stays the same from run to run; no host or user name.
"""

from __future__ import annotations

import math
import os
import platform
import re
import time
from pathlib import Path
from typing import Any


def machine(device: str, *, threads: int | None = None) -> dict[str, Any]:
    """Processor, cores this process may use, threads, memory, device, platform.

    Args:
        device: torch device name; a CUDA device is listed with the model of the card(s).
        threads: CPU threads of the benchmark; default: OMP_NUM_THREADS, else the physical cores
            among those that may be used, which is what torch takes.
    """
    return {
        "cpu": _processor(),
        "cores": _cores(),
        "threads": threads or _default_threads(),
        "memory_gib": round(_memory_bytes() / 2**30, 1),
        "device": _device(device),
        "platform": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


class OtherWork:
    """How many cores were busy with something else than this process since it was made."""

    def __init__(self) -> None:
        self._before = self._now()

    def cores(self) -> float:
        """Mean over the time since then; near 0 on an idle machine."""
        busy, own, clock = (
            now - before for now, before in zip(self._now(), self._before, strict=True)
        )
        return max(0.0, (busy - own) / clock) if clock > 0 else 0.0

    @staticmethod
    def _now() -> tuple[float, float, float]:
        import psutil

        times, own = psutil.cpu_times(), psutil.Process().cpu_times()
        # Linux counts guests twice: as such, and within user and nice.
        counted = {k: v for k, v in times._asdict().items() if not k.startswith("guest")}
        idle = counted.get("idle", 0.0) + counted.get("iowait", 0.0)
        return sum(counted.values()) - idle, own.user + own.system, time.monotonic()


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    if path.is_file():
        found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", path.read_text(), re.MULTILINE)
        if found:
            return found[1].strip()
    return platform.processor() or platform.machine()


def _cores() -> int:
    """Logical cores that this process may run on, whole ones of a container's quota included."""
    allowed = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = _cgroup_values("cpu.max")
    if len(quota) == 2 and quota[0].isdigit():
        allowed = min(allowed, max(1, math.ceil(int(quota[0]) / int(quota[1]))))
    return allowed


def _default_threads() -> int:
    import psutil

    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    return min(_cores(), psutil.cpu_count(logical=False) or _cores())


def _memory_bytes() -> int:
    import psutil

    total = psutil.virtual_memory().total
    limit = _cgroup_values("memory.max")
    return min(total, int(limit[0])) if limit and limit[0].isdigit() else total


def _cgroup_values(name: str) -> list[str]:
    """A limit of the container that this process is in (cgroup v2); empty where there is none."""
    path = Path("/sys/fs/cgroup") / name
    return path.read_text().split() if path.is_file() else []


def _device(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    cards = sorted(
        found[1].strip()
        for path in Path("/proc/driver/nvidia/gpus").glob("*/information")
        if (found := re.search(r"^Model:\s*(.+)$", path.read_text(), re.MULTILINE))
    )
    return f"{device} ({', '.join(dict.fromkeys(cards))})" if cards else device
