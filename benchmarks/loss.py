"""What do head and losses cost, against the bare matrix products and against other systems' ways?

    python benchmarks/loss.py [--vocabulary 151936] [--rows 64 256] [--length 1024] [--rounds 3]

One sample of `length` tokens of which `rows` are supervised, hidden widths 1536 (student) and 3584
(teacher), bf16. Interleaves all of them in one process (A B C ... A B C ...), and prints seconds,
the ratio to the three bare matrix products on the supervised rows (h W^T, G W, G^T h) with its
spread, and the peak of extra memory. Takes some ten minutes on an idle machine, of which other
systems' ways take most: those on every position run once less than the rest, the slowest once.
Ours keep the memory of the largest tensors from run to run, as in training from step to step.

Measured under two allocators, each in processes of its own: as shipped, and one that keeps large
memory instead of asking the system for it anew (glibc without mmap; on CUDA expandable segments).
`filtered dW` leaves columns out of the gradient of the head's weights (tolerance 0.003; the error
that this makes is in the result): it is not the exact gradient, and its goals are counted apart.
`dW scaled after` adds what clipping does to the whole gradient. Writes work/benchmarks/loss.json.

The other systems' ways are written here from their definitions, and named after who ships them:

    naive         logits of both models in float32, the divergence on every position, then masked
    trl           log-softmax of both models in float32 (as under autocast) and their divergence on
                  every position, then those that are supervised are taken
    liger         head, teacher's head and loss in chunks of 1024 positions, gradient by autograd
                  inside a chunk; `rows`: the same given nothing but the supervised rows
    distillkit    64 kept tokens a position, to which the teacher is renormalised, and the model's
                  own cross-entropy in float32, as its trainer computes it; on every position

The divergence is the forward KL, which costs trl and liger less than the JSD that they ship as the
default (`jsd`, beta 0.5). All are given the teacher's logits or kept tokens for free, but for
liger's way, which takes the teacher's hidden states; `fused + teacher's head` compares with that.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from loss_parts.case import FILTERED, STUDENT_WIDTH, TOLERANCE, Case

from limbeck.losses.fused.memory import Buffers

MIB = 2**20
SHIPPED = "as shipped"
ALLOCATORS: dict[str, dict[str, dict[str, str]]] = {
    "cpu": {
        SHIPPED: {},
        "keeping memory": {
            "MALLOC_MMAP_MAX_": "0",
            "MALLOC_TRIM_THRESHOLD_": str(2**40),
            "MALLOC_TOP_PAD_": str(2**26),
        },
    },
    "cuda": {
        SHIPPED: {},
        "expandable segments": {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"},
    },
}
"""Environment variables of each, by the kind of device."""

Measured = dict[str, dict[str, Any]]


def seconds(case: Case, way: Callable[[], None]) -> float:
    _synchronise(case.device)
    started = time.perf_counter()
    way()
    _synchronise(case.device)
    spent = time.perf_counter() - started
    case.clear()
    return spent


def peak_extra_mib(case: Case, way: Callable[[], None]) -> float | None:
    """Peak above what was held before: the allocator's on CUDA, the process's on Linux."""
    case.buffers = Buffers()  # so that ours counts too
    gc.collect()
    if case.device.startswith("cuda"):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        way()
        peak = torch.cuda.max_memory_allocated() - before
    elif sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = _status_bytes("VmRSS")
        way()
        peak = _status_bytes("VmHWM") - before
    else:
        return None
    case.clear()
    return peak / MIB


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def measure(case: Case, rounds: int, slow: str, with_memory: bool) -> Measured:
    """Time every way; `slow` says which of those on every position: all, some or none."""
    times_each = dict.fromkeys(case.ways(), rounds)
    ways = case.ways()
    if slow != "none":
        frequent, most = case.slow_ways(most=False), case.slow_ways(most=slow == "all")
        ways |= most
        times_each |= {name: max(1, rounds - 1) if name in frequent else 1 for name in most}
    extra: dict[str, float | None] = {}
    for name, way in ways.items():  # also warms up
        found_mib = peak_extra_mib(case, way)
        extra[name] = found_mib if with_memory else None
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        print(f"  round {number + 1} of {rounds}", file=sys.stderr)
        for name, way in ways.items():
            if number < times_each[name]:
                taken[name].append(seconds(case, way))
    found: Measured = {}
    for name, times in taken.items():
        base = taken["bare, frozen head" if name.endswith("frozen head") else "bare"]
        ratios = [own / bare for own, bare in zip(times, base, strict=False)]
        found[name] = {
            "seconds": median(times),
            "times_bare": median(ratios),
            "times_bare_low": min(ratios),
            "times_bare_high": max(ratios),
            "peak_extra_mib": extra[name],
            "all_seconds": times,
        }
    return found


def show(title: str, found: Measured) -> None:
    print(f"\n{title}\n")
    print(f"{'':48}{'seconds':>9}{'x bare':>9}{'(low to high)':>18}{'extra MiB':>11}")
    for name, one in found.items():
        spread = f"({one['times_bare_low']:.2f} to {one['times_bare_high']:.2f})"
        extra = "" if one["peak_extra_mib"] is None else f"{one['peak_extra_mib']:.0f}"
        print(f"{name:48}{one['seconds']:9.3f}{one['times_bare']:9.2f}{spread:>18}{extra:>11}")


def goals(allocators: dict[str, dict[str, Any]], weight_mib: float) -> list[dict[str, Any]]:
    """The figures to reach, with what was reached, and whether the gradient was exact."""
    made: list[dict[str, Any]] = []

    def goal(what: str, kind: str, reached: float, target: float, at_least: bool) -> None:
        met = reached >= target if at_least else reached <= target
        one = {"goal": what, "allocator": allocator, "gradient": kind}
        made.append(one | {"reached": reached, "target": target, "met": met})

    def faster(ours: str, theirs: str, target: float, kind: str = "exact", on: str = "") -> None:
        pairs = zip(found[theirs]["all_seconds"], found[ours]["all_seconds"], strict=False)
        reached = median([b / a for b, a in pairs])
        goal(f"x faster than {theirs}{on}", kind, reached, target, True)

    for allocator, measured in allocators.items():
        for rows, found in measured["rows"].items():
            if allocator == SHIPPED:
                bounds = {"fused, dense": 1.15, "fused, top-64 + tail": 1.15}
                for ours, bound in {**bounds, "fused, dense, jsd": 1.25}.items():
                    reached = found[ours]["times_bare"]
                    goal(f"{ours}: x bare, {rows} rows", "exact", reached, bound, False)
                frozen = "fused + teacher's head, frozen head"
                faster(frozen, "liger, rows", 2.2, "none (frozen head)", f" on {rows} rows")
                errors = [one["relative_error"] for one in measured["filter"][rows].values()]
                what = f"error of dW, share of it, {rows} rows"
                goal(what, "filtered dW", max(errors), 0.01, False)
            if "trl" not in found:
                continue
            for kind in [kind for kind in ("", ", jsd") if "trl" + kind in found]:
                faster("fused, dense" + kind, "trl" + kind, 20)
                faster("fused + teacher's head" + kind, "liger" + kind, 20)
                ours = "fused + teacher's head" + kind + FILTERED
                faster(ours, "liger" + kind, 20, "filtered dW")
            ours = "fused, top-64, with cross-entropy"
            faster(ours, "distillkit", 30)
            faster(ours + FILTERED, "distillkit", 30, "filtered dW")
            extra = [found[name]["peak_extra_mib"] for name in ("fused, dense", "trl")]
            if None not in extra:
                mine, theirs = (value - weight_mib for value in extra)
                what = "extra memory above dW, share of trl's"
                goal(what, "exact", max(mine, 0) / theirs, 0.1, False)
    return made


def measure_one(arguments: argparse.Namespace) -> dict[str, Any]:
    """What is measured under the allocator of this process."""
    shipped = arguments.allocator == SHIPPED
    result: dict[str, Any] = {"rows": {}, "distributions": {}, "filter": {}}
    for number, rows in enumerate(arguments.rows if shipped else arguments.rows[:1]):
        case = Case(arguments.length, rows, arguments.vocabulary, arguments.device)
        slow = "none" if number else "all" if shipped else "some"
        # What a process holds says nothing of one that gives nothing back.
        with_memory = shipped or case.device.startswith("cuda")
        result["distributions"][rows] = case.facts()
        result["filter"][rows] = case.filter_facts()
        result["rows"][rows] = measure(case, arguments.rounds, slow, with_memory)
        del case
    return result


def in_process_of_its_own(allocator: str, environment: dict[str, str]) -> dict[str, Any]:
    print(f"allocator: {allocator}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "measured.json"
        command = [sys.executable, __file__, *sys.argv[1:], "--allocator", allocator]
        command += ["--output", str(output)]
        subprocess.run(command, check=True, env={**os.environ, **environment})
        measured = json.loads(output.read_text())
    return {"environment": environment, **measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("work/benchmarks/loss.json"))
    parser.add_argument("--allocator", help=argparse.SUPPRESS)  # set in the processes that measure
    arguments = parser.parse_args()
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    if arguments.allocator:
        arguments.output.write_text(json.dumps(measure_one(arguments)))
        return
    known = ALLOCATORS.get(arguments.device.partition(":")[0], {SHIPPED: {}})
    if sys.platform != "linux":
        known = {SHIPPED: {}}
    allocators = {name: in_process_of_its_own(name, known[name]) for name in known}
    for name, measured in allocators.items():
        for rows, found in measured["rows"].items():
            show(f"{rows} supervised rows, allocator {name}", found)
    weight_mib = arguments.vocabulary * STUDENT_WIDTH * 2 / MIB
    reached = goals(allocators, weight_mib)
    print(f"\nThe gradient of the head's weights alone is {weight_mib:.0f} MiB.\n")
    for one in reached:
        word = "met" if one["met"] else "MISSED"
        where = f"[{one['gradient']}; allocator {one['allocator']}]"
        print(f"{word:7} {one['goal']}: {one['reached']:.3f} (goal {one['target']:g}) {where}")
    result = {
        "vocabulary": arguments.vocabulary,
        "length": arguments.length,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "tolerance": TOLERANCE,
        "weight_gradient_mib": weight_mib,
        "allocators": allocators,
        "goals": reached,
    }
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
