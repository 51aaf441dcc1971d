"""A plan as it is shown on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

GIB = 2**30
LARGEST_PARTS = 3


def describe_plan(plan: dict[str, Any]) -> list[str]:
    """The lines of a plan that is given as plain values (`pipeline.Plan.describe`)."""
    stages, needs = plan["stages"], plan["needs"]
    lines = [*_table(stages), ""]
    lines += [_budget_line(name, budget) for name, budget in plan["visual_budgets"].items()]
    lines += [_disk_line(need) for need in plan["disk"]]
    lines += _peak_lines(stages)
    lines += _verdict(needs)
    lines += _disk_verdict(needs["disk"])
    lines += _time_line(needs["time"])
    left = sum(not row["done"] for row in stages)
    return [*lines, f"{len(stages)} stages, {left} to do"]


def size(number: float) -> str:
    """Bytes, to three digits."""
    for unit, power in (("GiB", 3), ("MiB", 2)):
        if number >= 0.1 * 1024**power:
            return f"{number / 1024**power:,.3g} {unit}"
    return f"{number / 1024:,.3g} KiB"


def duration(seconds: float) -> str:
    """Seconds in the unit that a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _table(stages: Sequence[dict[str, Any]]) -> list[str]:
    rows = [("", "stage", "", "memory", "disk", "time", "folder")]
    rows += [
        (
            "done" if row["done"] else "to do",
            row["kind"],
            row["title"],
            _memory(row["memory"]),
            _disk(row["disk"]),
            _time(row["time"]),
            row["folder"],
        )
        for row in stages
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _memory(memory: dict[str, Any] | None) -> str:
    if memory is None:
        return "-"
    if memory["bytes"] is None:
        return "unknown"
    over = "" if memory["fits"] else " !"
    return f"{size(memory['bytes'] + memory['runtime_bytes'])}{over}"


def _disk(disk: dict[str, Any]) -> str:
    if disk["bytes"] is None:
        return "unknown"
    if not disk["bytes"]:
        return "small"
    return f"{'<= ' if disk['at_most'] else ''}{size(disk['bytes'])}"


def _time(time: dict[str, Any]) -> str:
    if time["seconds"] is None:
        return "unknown"
    return duration(time["seconds"]) if time["measured"] else f"~{duration(time['seconds'])}"


def _peak_lines(stages: Sequence[dict[str, Any]]) -> list[str]:
    """What the highest peak is made of, what it rests on, and why others are unknown."""
    left = [row for row in stages if not row["done"] and row["memory"]]
    known = [row for row in left if row["memory"]["bytes"] is not None]
    lines: list[str] = []
    if known:
        row = max(known, key=lambda one: one["memory"]["bytes"])
        memory = row["memory"]
        parts = [*memory["parts"], {"name": "runtime", "bytes": memory["runtime_bytes"]}]
        parts = sorted(parts, key=lambda part: -part["bytes"])
        shown = ", ".join(f"{p['name']} {size(p['bytes'])}" for p in parts[:LARGEST_PARTS])
        lines.append(
            f"highest peak: {row['kind']} {row['title']}: {shown} ({memory['sizes_from']})"
        )
        if memory["assumed"]:
            lines.append(f"assumed until the data stage is done: {memory['assumed']}")
    reasons = dict.fromkeys(row["memory"]["unknown"] for row in left if row["memory"]["unknown"])
    return lines + [f"memory unknown: {reason}" for reason in reasons]


def _verdict(needs: dict[str, Any]) -> list[str]:
    machine = needs["machine"]
    where = f"{machine['name']}, {machine['margin']:.0%} left free"
    if needs["fits"]:
        return [f"fits: {where}"]
    if needs["fits"] is None:
        return [f"not known whether it fits: {where}; no memory for {', '.join(needs['unknown'])}"]
    lines = [f"does not fit: {where}; too large: {', '.join(needs['too_large'])}"]
    for mend in needs["mends"]:
        lines.append(f"  {' '.join(mend['arguments'])}")
        then = "fits" if mend["fits"] else "still too large"
        lines.append(f"      highest peak then {size(mend['bytes'])}, {then}; {mend['costs']}")
    if not needs["mends"] or not needs["mends"][-1]["fits"]:
        lines.append(
            "nothing more that Limbeck knows makes it fit: a smaller model, or more memory"
        )
    return lines


def _disk_verdict(disk: dict[str, Any]) -> list[str]:
    more = f", and {disk['unknown_stages']} stages unknown" if disk["unknown_stages"] else ""
    free = size(disk["free_bytes"])
    word = "" if disk["fits"] else ": not enough"
    return [f"disk: {size(disk['bytes'])} to write{more}; {free} free{word}"]


def _time_line(time: dict[str, Any]) -> list[str]:
    unknown = time["unknown_stages"]
    if time["seconds"] is None:
        if not unknown:
            return []
        return ["time: unknown, nothing like it was run here; --measure runs a few batches"]
    more = f", and {unknown} stages unknown" if unknown else ""
    return [f"time: about {duration(time['seconds'])}{more}"]


def _budget_line(name: str, budget: dict[str, Any]) -> str:
    """How many pixels and tokens a picture may become."""
    pixels = budget["max_pixels"] or "the processor's own"
    tokens = budget["visual_tokens_at_most"]
    counted = "" if tokens is None else f", at most {tokens:,} visual tokens"
    return f"{name}: pixels of a picture: {pixels}{counted}"


def _disk_line(need: dict[str, Any]) -> str:
    """What a cache will take, and of what that is the product."""
    known = f"unknown ({need['unknown']})"
    if need["bytes"] is not None:
        known = f"{'at most' if need['at_most'] else 'about'} {need['bytes'] / GIB:,.3g} GiB"
    row, tokens, samples = (need[k] for k in ("bytes_per_token", "tokens_per_sample", "samples"))
    parts = [f"{row:,} bytes a token"] if row else []
    parts += [f"at most {tokens:,} tokens a sample"] if tokens else []
    parts += [f"{samples:,} samples"] if samples else []
    return f"disk: {need['what']} ({need['kind']}): {'; '.join([known, *parts])}"
