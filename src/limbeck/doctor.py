"""`limbeck doctor`: what this machine has, and what is missing for a run."""

from __future__ import annotations

import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement

GIB = 1 << 30
MIN_FREE_GIB = 2.0
"""Below this much free memory or disk, even small runs fail."""
EXTRAS = {
    "bitsandbytes": "teachers in int8 or nf4: pip install 'limbeck[quantization]'",
    "trackio": "tracking: pip install 'limbeck[trackio]'",
    "wandb": "tracking: pip install 'limbeck[wandb]'",
    "tensorboard": "tracking: pip install 'limbeck[tensorboard]'",
}


@dataclass(frozen=True)
class Check:
    """One finding; `fail` is what no run survives, `note` what some runs need."""

    name: str
    state: Literal["ok", "note", "fail"]
    found: str
    mend: str = ""

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def examine(work: Path) -> list[Check]:
    """All checks, in the order in which they are printed."""
    return [
        _python(),
        *_packages(),
        *_torch(),
        _memory(),
        *_work_folder(work),
        _hub_cache(),
        *_extras(),
    ]


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check("python", "ok" if sys.version_info >= (3, 11) else "fail", found)


def _packages() -> Iterator[Check]:
    """Installed versions against the ranges of the package and the pins of constraints.txt."""
    tested = _pins()
    for text in requires("limbeck") or []:
        requirement = Requirement(text)
        if requirement.marker is not None:  # an extra, or not for this platform
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            yield Check(requirement.name, "fail", "not installed", f"pip install '{requirement}'")
            continue
        pin = tested.get(_canonical(requirement.name))
        if not requirement.specifier.contains(installed, prereleases=True):
            yield Check(
                requirement.name,
                "fail",
                f"{installed}, needs {requirement.specifier}",
                f"pip install '{requirement}'",
            )
        elif pin is not None and pin != installed.partition("+")[0]:
            yield Check(
                requirement.name,
                "note",
                f"{installed}, tested with {pin}",
                "pip install -c constraints.txt -e .",
            )
        else:
            yield Check(requirement.name, "ok", installed)


def _pins() -> dict[str, str]:
    """The versions that the tests ran with, where the package runs from its repository."""
    path = Path(__file__).parents[2] / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = [line.partition("==") for line in lines if "==" in line and line[0] != "#"]
    return {_canonical(name.strip()): pin.strip() for name, _, pin in pairs}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _torch() -> Iterator[Check]:
    try:
        import torch
    except Exception as error:  # a broken installation answers with anything, and is the finding
        yield Check("devices", "fail", f"torch cannot be imported ({error})", "reinstall torch")
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            memory = f"{properties.total_memory / GIB:.1f} GiB"
            yield Check(f"cuda:{index}", "ok", f"{properties.name}, {memory}")
    elif torch.backends.mps.is_available():
        yield Check("mps", "ok", platform.processor() or "Apple GPU")
    else:
        yield Check("devices", "note", f"no GPU; {torch.get_num_threads()} CPU threads")


def _memory() -> Check:
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    enough = memory.available / GIB >= MIN_FREE_GIB
    return Check("memory", "ok" if enough else "note", found, "" if enough else "close programs")


def _work_folder(work: Path) -> Iterator[Check]:
    existing = next(path for path in (work.absolute(), *work.absolute().parents) if path.exists())
    mend = "choose another with --set work=PATH"
    if not existing.is_dir():
        yield Check("work folder", "fail", f"{existing} is no folder", mend)
        return
    try:
        with tempfile.TemporaryFile(dir=existing):
            yield Check("work folder", "ok", f"{work} can be written")
    except OSError as error:
        yield Check("work folder", "fail", f"{existing}: {error.strerror}", mend)
    free_gib = shutil.disk_usage(existing).free / GIB
    enough = free_gib >= MIN_FREE_GIB
    yield Check(
        "disk", "ok" if enough else "fail", f"{free_gib:.1f} GiB free", "" if enough else mend
    )


def _hub_cache() -> Check:
    from huggingface_hub.constants import HF_HUB_CACHE, HF_HUB_OFFLINE

    cache = Path(HF_HUB_CACHE)
    models = len(list(cache.glob("models--*"))) if cache.is_dir() else 0
    offline = ", offline" if HF_HUB_OFFLINE else ""
    return Check("hub cache", "ok", f"{cache}, {models} models{offline}")


def _extras() -> Iterator[Check]:
    for name, purpose in EXTRAS.items():
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            yield Check(name, "note", "not installed", purpose)
