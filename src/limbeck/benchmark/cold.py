"""The first start: how much of a model's files is in the page cache, and getting it out of there.

Linux lets a file's owner ask for that without being root (posix_fadvise). Pages that another
process has mapped stay, and what a disk, a hypervisor or a network file system keeps is out of
reach; so what is left is counted afterwards, and written down.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

DROPPED_SHARE = 0.01
"""At most so much is left of files that count as dropped."""


def drop_from_page_cache(files: Sequence[Path]) -> dict[str, Any]:
    """Ask the system to forget the contents of files that it keeps in memory.

    Returns:
        The share of their bytes that was in memory `before` and `after` (None where the system does
        not tell), whether they count as `dropped`, and the `state` in words.
    """
    if not hasattr(os, "posix_fadvise"):
        state = "left as it was: this system has no call that drops files from it"
        return {"before": None, "after": None, "dropped": False, "state": state}
    before = share_in_memory(files)
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # what is not yet on the disk cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError:
            pass  # a file system without either; what is left is counted below
        finally:
            os.close(descriptor)
    after = share_in_memory(files)
    dropped = None if after is None else after <= DROPPED_SHARE
    return {"before": before, "after": after, "dropped": dropped, "state": _words(before, after)}


def share_in_memory(files: Sequence[Path]) -> float | None:
    """Of the files' bytes, by pages; None where the system does not tell, or there is no byte.

    Linux tells of files that one owns or may write, and says "all" of others.
    """
    if sys.platform != "linux":
        return None
    pages = resident = 0
    for path in files:
        if path.stat().st_uid != os.geteuid() and not os.access(path, os.W_OK):
            return None
        if size := path.stat().st_size:
            found = _pages_in_memory(path, size)
            if found is None:
                return None
            pages += -(-size // mmap.PAGESIZE)
            resident += found
    return resident / pages if pages else None


def _pages_in_memory(path: Path, size: int) -> int | None:
    """How many pages of a file are in memory, by mincore(2), which reads none of them."""
    # A private copy is writable, as ctypes wants it; nothing is written.
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY) as view:
        first = ctypes.c_char.from_buffer(view)
        try:
            states = ctypes.create_string_buffer(-(-size // mmap.PAGESIZE))
            address = ctypes.c_void_p(ctypes.addressof(first))
            failed = ctypes.CDLL(None).mincore(address, ctypes.c_size_t(size), states)
        finally:
            del first  # the view cannot be closed before
    return None if failed else sum(states.raw.count(odd) for odd in range(1, 256, 2))


def _words(before: float | None, after: float | None) -> str:
    if before is None or after is None:
        return "asked to drop the model's files; the system does not tell whether it did"
    if after <= DROPPED_SHARE:
        return f"the model's files dropped from it ({before:.0%} of them were in it)"
    return f"the model's files could not be dropped from it ({after:.0%} are still in it)"
