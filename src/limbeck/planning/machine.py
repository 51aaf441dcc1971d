"""The machine that a plan is for: this one, or one that is named. No torch."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

from limbeck.benchmark.machine import machine
from limbeck.errors import UsageError
from limbeck.planning.memory import Part

MARGIN = 0.1
"""Share of a device's memory that a plan leaves free: for the allocator's gaps, and for what the
formulas do not know."""
CPU_MARGIN = 0.25
"""The same on a CPU, where the C library's gaps are wider (docs/planning.md has them measured)."""
GPU_RUNTIME_BYTES = 2**29
"""Context, kernels and workspaces of a CUDA device; not measured here, and in the plan's table."""
CPU_RUNTIME_BYTES = 700 * 2**20
"""A process with torch and transformers; benchmarks/plan_error.py measures it."""
_SIZE = re.compile(r"(?:(\d+)x)?(\d+(?:\.\d+)?)\s*([KMGT])(i?)B?", re.IGNORECASE)


@dataclass(frozen=True)
class Machine:
    """Where a run's tensors are.

    Attributes:
        device: "cuda", "mps" or "cpu".
        bytes: memory of one device; of a CPU, the machine's.
        count: devices, each with a copy of the model (data parallel).
        name: in words.
    """

    device: str
    bytes: float
    count: int
    name: str

    @property
    def usable(self) -> float:
        """What a plan may fill."""
        return self.bytes * (1 - self.margin)

    @property
    def margin(self) -> float:
        """Share that is left free."""
        return CPU_MARGIN if self.device == "cpu" else MARGIN

    @property
    def runtime(self) -> Part:
        """What is there before any tensor."""
        size = GPU_RUNTIME_BYTES if self.device == "cuda" else CPU_RUNTIME_BYTES
        return Part("runtime", size)

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return {
            "device": self.device,
            "bytes": self.bytes,
            "count": self.count,
            "name": self.name,
            "margin": self.margin,
        }


def machine_of(device: str, gpu: str | None = None, ram: str | None = None) -> Machine:
    """The machine that is named, or else this one.

    Args:
        device: torch's name of the device that the recipe runs on here.
        gpu: such as "24GiB" or "4x80GiB"; what torch would find is not asked.
        ram: such as "16GiB", of a machine without a GPU.

    Raises:
        UsageError: a size that cannot be read, or both.
    """
    if gpu and ram:
        raise UsageError("a plan is for one device", where="--gpu, --ram", mend="give one of them")
    if gpu:
        count, size = parsed(gpu, "--gpu")
        cards = f"{count} GPUs of {gpu.partition('x')[2]}" if count > 1 else f"a GPU of {gpu}"
        return Machine("cuda", size, count, cards)
    if ram:
        count, size = parsed(ram, "--ram")
        if count > 1:
            raise UsageError("is one machine's", where="--ram", mend="write it as 16GiB")
        return Machine("cpu", size, 1, f"a CPU with {ram}")
    if device.startswith("cuda") and (cards := _nvidia()):
        smallest, name = min(cards)
        return Machine("cuda", smallest, 1, f"{name}, {smallest / 2**30:.1f} GiB")
    total = machine("cpu")["memory_gib"] * 2**30  # a container's limit, where there is one
    if device == "mps":
        return Machine("mps", total, 1, f"this machine's unified memory, {total / 2**30:.1f} GiB")
    return Machine("cpu", total, 1, f"this machine's CPU, {total / 2**30:.1f} GiB")


def parsed(text: str, where: str) -> tuple[int, float]:
    """Count and bytes of "24GiB", "24GB" or "4x80GiB".

    Raises:
        UsageError: it is no size.
    """
    found = _SIZE.fullmatch(text.strip())
    if found is None or not float(found[2]) or found[1] == "0":
        raise UsageError(f"{text!r} is no size", where=where, mend="write it as 24GiB or 4x80GiB")
    count, number, unit, binary = found.groups()
    power = "KMGT".index(unit.upper()) + 1
    return int(count or 1), float(number) * (1024 if binary else 1000) ** power


def _nvidia() -> list[tuple[float, str]]:
    """Memory and names of the cards, as the driver's own tool says; empty where it does not."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=memory.total,name", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        rows = [line.partition(",") for line in done.stdout.splitlines() if line.strip()]
        return [(float(size) * 2**20, name.strip()) for size, _, name in rows]
    except (OSError, ValueError, subprocess.SubprocessError):
        return []
