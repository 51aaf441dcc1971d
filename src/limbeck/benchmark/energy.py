"""Energy counters of the machine: each says what it covers, and where there is none, why.

    cpu, memory   Linux: RAPL, through /sys/class/powercap, where a user may read it. It covers
                  whole CPU packages (and their DRAM, where the processor counts that): other
                  programs and idle power are in it.
    gpu           NVIDIA: the board's own counter, through NVML (package nvidia-ml-py).

macOS shows energy to root alone, which Limbeck is not. Nothing is estimated from a processor's
rated power: where no counter can be read there is no number.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from limbeck.benchmark.timing import Drawn

POWERCAP = Path("/sys/class/powercap")
POLLING_SECONDS = 10.0
"""RAPL's counters start again from 0 after minutes to hours; they are read in between."""


class Counter(Protocol):
    """A count of joules that only grows."""

    name: str
    covers: str

    def joules(self) -> float:
        """Since some moment in the past."""
        ...


class RaplCounter:
    """Zones of RAPL, added up; a counter that has started again from 0 is understood.

    Args:
        name: of the measurements.
        covers: whose energy it is.
        zones: folders below /sys/class/powercap.

    Raises:
        OSError: they may not be read.
    """

    def __init__(self, name: str, covers: str, zones: Sequence[Path]) -> None:
        self.name, self.covers, self._zones = name, covers, zones
        self._last = [self._read(zone) for zone in zones]
        self._ranges = [_number(zone / "max_energy_range_uj") for zone in zones]
        self._microjoules = 0
        self._lock = threading.Lock()  # it is also read from the thread that polls

    def joules(self) -> float:
        """Since this object was made; less than one turn of the counter may lie in between."""
        with self._lock:
            for index, zone in enumerate(self._zones):
                now = self._read(zone)
                turned = self._ranges[index] if now < self._last[index] else 0
                self._microjoules += now - self._last[index] + turned
                self._last[index] = now
            return self._microjoules / 1e6

    @staticmethod
    def _read(zone: Path) -> int:
        return _number(zone / "energy_uj")


class NvmlCounter:
    """What one NVIDIA board has drawn, as it counts itself (Volta and later)."""

    name = "gpu"

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self.covers = "the whole GPU board (NVML), idle power included"

    def joules(self) -> float:
        """Since the driver was loaded."""
        return self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle) / 1e3


class Energy:
    """The counters of this machine that can be read, as one meter.

    Attributes:
        absent: what cannot be read and why, in words.
    """

    def __init__(self, device: str) -> None:
        found: list[Counter | str] = [*_processor_counters(POWERCAP)]
        if device.startswith("cuda"):
            found.append(_board_counter(device))
        self.counters = [one for one in found if not isinstance(one, str)]
        self.absent = [one for one in found if isinstance(one, str)]
        self._before: list[float] = []
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start a new measurement window."""
        self._before = [counter.joules() for counter in self.counters]
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, args=(self._stop,), daemon=True)
        self._thread.start()

    def stop(self) -> list[Drawn]:
        """What was drawn since then."""
        assert self._thread is not None, "start comes first"
        self._stop.set()
        self._thread.join()
        return [
            Drawn(counter.name, counter.covers, counter.joules() - before)
            for counter, before in zip(self.counters, self._before, strict=True)
        ]

    def describe(self) -> dict[str, Any]:
        """What is counted, and what is not."""
        return {"covers": [counter.covers for counter in self.counters], "absent": self.absent}

    def _poll(self, stop: threading.Event) -> None:
        while not stop.wait(POLLING_SECONDS):
            for counter in self.counters:
                counter.joules()


def _processor_counters(powercap: Path) -> list[Counter | str]:
    """Of packages and of their memory, or why there is none."""
    if sys.platform == "darwin":
        return [
            "CPU: macOS tells energy to root only (powermetrics), which Limbeck does not ask for"
        ]
    if sys.platform != "linux":
        return [f"CPU: energy is not read on {sys.platform}"]
    zones = {zone: (zone / "name").read_text().strip() for zone in _zones(powercap)}
    # psys is the whole platform, packages included; core and uncore are parts of their package.
    packages = [zone for zone, name in zones.items() if name.startswith("package")]
    memory = [zone for zone, name in zones.items() if name == "dram"]
    if not packages:
        return [
            f"CPU: there is no RAPL counter in {powercap} (virtual machines and containers, as a "
            "rule, do not have one)"
        ]
    found: list[Counter | str] = []
    count = f"{len(packages)} CPU package{'s' if len(packages) > 1 else ''}"
    for name, some, what in (("cpu", packages, count), ("memory", memory, f"DRAM of {count}")):
        if not some:
            continue
        covers = f"the whole {what} (RAPL), other programs and idle power included"
        try:
            found.append(RaplCounter(name, covers, some))
        except PermissionError:
            found.append(
                f"{what}: {some[0] / 'energy_uj'} is for root only; whoever runs the machine can "
                "let users read it (chmod a+r)"
            )
        except (OSError, ValueError) as error:
            found.append(f"{what}: {some[0] / 'energy_uj'} cannot be read ({error})")
    return found


def _zones(powercap: Path) -> list[Path]:
    """RAPL's zones; those below intel-rapl-mmio are the same packages again."""
    return sorted(zone for zone in powercap.glob("intel-rapl:*") if (zone / "name").is_file())


def _board_counter(device: str) -> Counter | str:
    try:
        import pynvml
    except ImportError:
        return "GPU: needs the package nvidia-ml-py (pip install 'limbeck[energy]')"
    try:
        pynvml.nvmlInit()
        counter = NvmlCounter(pynvml, pynvml.nvmlDeviceGetHandleByUUID(_board(device)))
        counter.joules()
    except pynvml.NVMLError as error:
        return f"GPU: its energy counter cannot be read ({error})"
    return counter


def _board(device: str) -> str:
    """The board's own name; torch's numbers depend on CUDA_VISIBLE_DEVICES, NVML's do not."""
    import torch

    return f"GPU-{torch.cuda.get_device_properties(device).uuid}"


def _number(path: Path) -> int:
    return int(path.read_text())
