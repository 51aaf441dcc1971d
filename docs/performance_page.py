"""The page about speed, from what the scripts in `benchmarks/` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

NAMES = ("loss", "cache", "pipeline", "shared_prefix", "labelling")


def adopt(folder: Path, kept: Path, remark: str | None = None) -> None:
    """Keep the benchmarks' JSON files, without the single times of every round.

    A remark, such as what else the machine was doing, is kept with the figures and stands by them.
    """
    kept.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        source = folder / f"{name}.json"
        if source.is_file():
            content = _without(json.loads(source.read_text(encoding="utf-8")), "all_seconds")
            content |= {"remark": remark} if remark else {}
            (kept / source.name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def performance_page(kept: Path) -> str | None:
    """The whole page, or None where no benchmark was kept."""
    sections = {
        "loss": _loss,
        "cache": _cache,
        "pipeline": _pipeline,
        "shared_prefix": _shared_prefix,
        "labelling": _labelling,
    }
    lines: list[str] = []
    for name, section in sections.items():
        path = kept / f"{name}.json"
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            title, *rest = section(found)
            remark = ["", f"**{found['remark']}**"] if "remark" in found else []
            lines += ["", title, *remark, *rest]
    if not lines:
        return None
    head = [
        "# Speed and memory",
        "",
        "Rendered by `make docs` from `docs/results/benchmarks/`, which the scripts in",
        "`benchmarks/` wrote on two CPU cores. Every script runs ours and the references in turn,",
        "in one process, and the ratios are of neighbouring runs: trust them more than the",
        "seconds. `make bench` measures again.",
    ]
    return "\n".join([*head, *lines, ""])


def _loss(found: dict[str, Any]) -> list[str]:
    lines = [
        "## Head and losses",
        "",
        f"`python benchmarks/loss.py`: vocabulary {found['vocabulary']:,}, bf16, torch",
        f"{found['torch']}, {found['threads']} thread(s). The gradient of the head's weights (dW)",
        f"alone is {found['weight_gradient_mib']:.0f} MiB. `filtered dW` is not exact: rows that",
        f"hardly matter are left out (`training.head_gradient_tolerance: {found['tolerance']:g}`).",
    ]
    for allocator, measured in found["allocators"].items():
        for rows, ways in measured["rows"].items():
            lines += _ways(f"{rows} supervised rows of {found['length']:,} tokens", allocator, ways)
        lines += _distributions(measured)
        if settings := measured["environment"]:
            words = ", ".join(f"`{name}={value}`" for name, value in settings.items())
            lines += ["", f"Allocator *{allocator}*: {words}."]
    lines += [
        "",
        "| goal | gradient | allocator | reached | wanted | |",
        "|---|---|---|---|---|---|",
    ]
    for one in found["goals"]:
        word = "met" if one["met"] else "**missed**"
        cells = (one["goal"], one["gradient"], one["allocator"], f"{one['reached']:.3g}")
        lines.append(f"| {' | '.join(cells)} | {one['target']:g} | {word} |")
    return lines


def _ways(what: str, allocator: str, ways: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "",
        f"{what}, allocator *{allocator}*:",
        "",
        "| way | seconds | × bare matrix products (low to high) | extra MiB |",
        "|---|---|---|---|",
    ]
    for name, one in ways.items():
        extra = "" if one["peak_extra_mib"] is None else f"{one['peak_extra_mib']:,.0f}"
        spread = f"{one['times_bare_low']:.2f} to {one['times_bare_high']:.2f}"
        ratio = f"{one['times_bare']:.2f} ({spread})"
        lines.append(f"| {name} | {one['seconds']:.3f} | {ratio} | {extra} |")
    return lines


def _distributions(measured: dict[str, Any]) -> list[str]:
    """What the filter left out, and of which distributions."""
    lines: list[str] = []
    for rows, facts in measured["distributions"].items():
        words = ", ".join(
            f"{name} {one['kept_share']:.1%} of dW's rows with an error of"
            f" {one['relative_error']:.2%}"
            for name, one in measured["filter"][rows].items()
        )
        lines += [
            "",
            f"{rows} rows, synthetic distributions: entropy of the teacher's"
            f" {facts['teacher_entropy_nats']:.2f} nats, of the student's"
            f" {facts['student_entropy_nats']:.2f}, KL {facts['kl_nats']:.2f}. The filter kept:"
            f" {words}.",
        ]
    return lines


def _cache(found: dict[str, Any]) -> list[str]:
    lines = [
        "## The cache of the teacher's distributions",
        "",
        f"`python benchmarks/cache.py`: {found['tokens']:,} tokens in {found['samples']} samples, "
        f"vocabulary {found['vocabulary']:,}, k = {found['k']}, temperatures "
        f"{', '.join(f'{t:g}' for t in found['temperatures'])}, mean entropy "
        f"{found['entropy_nats']['mean']:.2f} nats.",
        "",
        "| format | bytes a token | KL added, nats | encoded tokens/s | decoded tokens/s |",
        "|---|---|---|---|---|",
    ]
    for one in found["formats"]:
        cells = (
            one["format"],
            f"{one['bytes_per_token']:,.1f}",
            f"{one['kl_nats']:.1e}",
            f"{one['encode_tokens_per_second']:,.0f}",
            f"{one['decode_tokens_per_second']:,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _pipeline(found: dict[str, Any]) -> list[str]:
    lines = [
        "## A training step",
        "",
        f"`python benchmarks/pipeline.py`: a tiny pair of real model classes, "
        f"{found['steps']} steps of {found['batch_size']} samples, {found['threads']} thread(s).",
        "",
        "| variant | seconds a step | × faster (low to high) | final loss |",
        "|---|---|---|---|",
    ]
    for name, one in found["variants"].items():
        ratio = one["speed_up"]
        spread = f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        cells = (name, f"{one['seconds_a_step']:.3f}", spread, f"{one['final_loss']:.6f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += _goals(found["goals"])
    lines += [
        "",
        "The same step with each signal (`label.signal`), vision features cached in all of them:",
        "",
        "| signal | bytes a token | mass not kept | KL added, nats | seconds a step | final loss |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in found["signals"].items():
        cells = (
            f"`{name}`",
            "" if one["bytes_per_token"] is None else f"{one['bytes_per_token']:,.1f}",
            "" if one["tail_mass"] is None else f"{one['tail_mass']:.2%}",
            "" if one["kl_nats"] is None else f"{one['kl_nats']:.1e}",
            f"{one['seconds_a_step']:.3f}",
            f"{one['final_loss']:.6f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _goals(goals: list[dict[str, Any]]) -> list[str]:
    lines = ["", "| goal | reached | wanted | |", "|---|---|---|---|"]
    for one in goals:
        word = "met" if one["met"] else "**missed**"
        lines.append(f"| {one['goal']} | {one['reached']:.3g} | {one['target']:g} | {word} |")
    return lines


def _shared_prefix(found: dict[str, Any]) -> list[str]:
    lines = [
        "## Several questions on one picture",
        "",
        f"`python benchmarks/shared_prefix.py`: {found['questions_a_step']} questions a step or "
        f"batch, answers of {found['new_tokens']} tokens, {found['threads']} thread(s); each "
        "question by itself, and with the beginning of its prompt computed once a picture.",
        "",
        "| what | questions a picture | seconds apart | shared | × faster (low to high) | result |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in found["parts"].items():
        for one in rows:
            ratio, seconds = one["speed_up"], one["seconds"]
            if "final_loss" in one:
                losses = one["final_loss"]
                result = f"loss {losses['apart']:.6f} and {losses['shared']:.6f}"
            else:
                result = "equal answers" if one["equal_answers"] else "**answers differ**"
            cells = (
                name,
                str(one["questions"]),
                f"{seconds['apart']:.3f}",
                f"{seconds['shared']:.3f}",
                f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})",
                result,
            )
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def _labelling(found: dict[str, Any]) -> list[str]:
    ratio = found["speed_up"]
    sizes = f"{found['samples']} samples, {found['threads']} thread(s)"
    spread = f"{ratio['low']:.2f} to {ratio['high']:.2f} over {len(found['rounds'])} rounds"
    return [
        "## Labelling",
        "",
        f"`python benchmarks/labelling.py`: {sizes}. In batches of {found['batch_size']} it is",
        f"{ratio['median']:.2f} times as fast as one picture at a time ({spread}).",
    ]


def _without(value: Any, key: str) -> Any:
    if isinstance(value, dict):
        return {name: _without(inner, key) for name, inner in value.items() if name != key}
    if isinstance(value, list):
        return [_without(inner, key) for inner in value]
    return value
