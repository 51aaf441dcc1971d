"""Memory gauges: each names the kind of memory it reads, and none stands in for another.

On the CPU it is the resident memory of the process. Linux keeps its peak exactly (VmHWM) and lets
a process reset it through /proc/self/clear_refs; where that is not permitted a thread samples the
resident size every few milliseconds, which can miss a shorter peak. `method` says which it was.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from limbeck.benchmark.timing import MemoryGauge, Peak

PEAK = "peak_memory_mib"
PEAK_RESERVED = "peak_memory_reserved_mib"
SAMPLING_SECONDS = 0.005

_STATUS, _CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # the value that resets VmHWM, see proc_pid_clear_refs(5)


def gauge(device: str) -> MemoryGauge:
    """The gauge for a torch device name (`cpu`, `cuda`, `cuda:1`, `mps`)."""
    if device.startswith("cuda"):
        return CudaMemory(device)
    if device == "mps":
        return MpsMemory()
    return ResettableProcessMemory() if peak_can_be_reset() else SampledProcessMemory()


def release_freed_memory() -> None:
    """Hand memory that Python and the C library only keep for later back to the system."""
    gc.collect()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:  # glibc has it, musl has not
            trim(0)


def peak_can_be_reset(probe_bytes: int = 32 << 20) -> bool:
    """Whether this kernel lets a process reset its own peak, found out by trying."""
    if sys.platform != "linux":
        return False
    with mmap.mmap(-1, probe_bytes) as probe:
        probe.write(b"\1" * probe_bytes)
        high = _status_bytes("VmHWM")
    try:
        _CLEAR_REFS.write_text(_RESET_PEAK)
    except OSError:
        return False
    return high is not None and high - (_status_bytes("VmHWM") or high) > probe_bytes // 2


class ResettableProcessMemory:
    """Resident memory of this process, with the kernel's own exact peak."""

    kind = "process RSS"
    method = "VmHWM, reset through /proc/self/clear_refs"

    def settle(self) -> None:
        """Release what was freed."""
        release_freed_memory()

    def current_bytes(self) -> int:
        """Resident now."""
        size = _status_bytes("VmRSS")
        assert size is not None, "VmRSS is there wherever VmHWM is"
        return size

    def reset_peak(self) -> None:
        """Set the kernel's peak to what is resident now."""
        _CLEAR_REFS.write_text(_RESET_PEAK)

    def peaks(self) -> list[Peak]:
        """The kernel's peak."""
        size = _status_bytes("VmHWM")
        assert size is not None, "peak_can_be_reset has found VmHWM"
        return [Peak(PEAK, self.kind, size)]


class Sampled:
    """A peak by sampling: a thread reads `current_bytes` every few milliseconds."""

    kind = ""
    method = f"sampled every {1000 * SAMPLING_SECONDS:.0f} ms"

    def __init__(self, current_bytes: Callable[[], int]) -> None:
        self.current_bytes = current_bytes
        self._peak = 0
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def settle(self) -> None:
        """Release what was freed."""
        release_freed_memory()

    def reset_peak(self) -> None:
        """Start sampling anew."""
        self._end()
        self._peak = self.current_bytes()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, args=(self._stop,), daemon=True)
        self._thread.start()

    def peaks(self) -> list[Peak]:
        """The largest sample since `reset_peak`; ends the sampling."""
        self._end()
        return [Peak(PEAK, self.kind, max(self._peak, self.current_bytes()))]

    def _sample(self, stop: threading.Event) -> None:
        while not stop.wait(SAMPLING_SECONDS):
            self._peak = max(self._peak, self.current_bytes())

    def _end(self) -> None:
        if self._stop is not None and self._thread is not None:
            self._stop.set()
            self._thread.join()


class SampledProcessMemory(Sampled):
    """Resident memory of this process, sampled; for systems without a peak that can be reset."""

    kind = "process RSS"

    def __init__(self) -> None:
        import psutil

        process = psutil.Process()
        super().__init__(lambda: process.memory_info().rss)


class MpsMemory(Sampled):
    """What Metal's driver holds for this process: tensors and the allocator's cache, sampled."""

    kind = "MPS driver"

    def __init__(self) -> None:
        import torch

        super().__init__(torch.mps.driver_allocated_memory)

    def settle(self) -> None:
        """Release what was freed, the allocator's cache included."""
        import torch

        super().settle()
        torch.mps.empty_cache()


class CudaMemory:
    """Memory of tensors on one CUDA device, as torch's allocator counts it.

    Allocated is what tensors hold; reserved is what the allocator took from the device for them.
    The CUDA context itself is in neither.
    """

    kind = "CUDA allocated"
    method = "torch.cuda.max_memory_allocated and max_memory_reserved"

    def __init__(self, device: str) -> None:
        self._device = device

    def settle(self) -> None:
        """Release what was freed, the allocator's cache included."""
        import torch

        release_freed_memory()
        torch.cuda.empty_cache()

    def current_bytes(self) -> int:
        """Allocated now."""
        import torch

        return torch.cuda.memory_allocated(self._device)

    def reset_peak(self) -> None:
        """Reset both peaks."""
        import torch

        torch.cuda.reset_peak_memory_stats(self._device)

    def peaks(self) -> list[Peak]:
        """Both peaks."""
        import torch

        return [
            Peak(PEAK, self.kind, torch.cuda.max_memory_allocated(self._device)),
            Peak(PEAK_RESERVED, "CUDA reserved", torch.cuda.max_memory_reserved(self._device)),
        ]


def _status_bytes(field: str) -> int | None:
    """A field of /proc/self/status in bytes; None where the system does not report it."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", _STATUS.read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else None
