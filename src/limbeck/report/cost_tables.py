"""Tables of cost: what an arm saves against the teacher, and every measurement taken."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.report import cost as costs_of
from limbeck.report.format import (
    MISSING,
    condition,
    count,
    data_size,
    parameters,
    quantity,
    spread,
    times,
)
from limbeck.report.measured_tables import energy_missing, own_table
from limbeck.report.table import Cell, Results, Table

MEASUREMENT_NAMES = {
    "latency_ms": "latency, p50",
    "latency_p95_ms": "latency, p95",
    "time_to_first_token_ms": "time to first token",
    "decode_tokens_per_second": "decoding",
    "throughput_samples_per_second": "throughput, samples",
    "throughput_tokens_per_second": "throughput, tokens",
    "peak_memory_mib": "peak memory",
    "model_peak_memory_mib": "of it the model's own",
    "peak_memory_reserved_mib": "peak memory, reserved",
    "model_peak_memory_reserved_mib": "of it the model's own, reserved",
    "preprocess_ms": "image and text preparation",
    "new_tokens_mean": "answer length",
    "load_seconds": "load time",
    "runtime_memory_mib": "memory of the runtime alone",
    "model_memory_mib": "memory the loaded model adds",
    "weights_mib": "weights",
    "import_seconds": "importing libraries",
    "pictures_ms": "opening pictures",
    "processor_ms": "processor",
    "input_ms": "inputs to the model",
    "vision_ms": "vision tower",
    "prefill_ms": "prefill",
    "inter_token_ms": "a further token",
    "cost_per_thousand_samples": "cost of 1,000 samples",
}


def savings_table(results: Results) -> Table:
    """What every arm saves against the teacher: size, latency, memory, each with its values."""
    rows = []
    for arm, cost in results["costs"].items():
        found = results["gains"].get(arm)
        latency, memory = costs_of.latency(cost), costs_of.peak_memory(cost)
        own = costs_of.own_memory(cost)
        kind = (memory or {}).get("memory_kind") or ""
        rows.append(
            (
                Cell(arm),
                Cell(parameters(cost["parameters"]), _gain(found, "parameters")),
                Cell(data_size(cost["disk_bytes"]), _gain(found, "disk_bytes")),
                Cell(_quantity(latency), _gain(found, "latency")),
                Cell(_quantity(memory), " ".join(filter(None, [kind, _gain(found, "memory")]))),
                Cell(_quantity(own), _gain(found, "own_memory")),
                Cell(str(cost["precision"]), "mixed pair" if found and found["mixed"] else ""),
            )
        )
    columns = (
        "arm",
        "parameters",
        "on disk",
        "latency, p50",
        "peak memory",
        "model's own",
        "precision",
    )
    note = (
        "The factor says how many times less than the teacher an arm needs (below 1: more). "
        "Latency and memory at batch 1, natural answer length where measured. The model's own "
        "memory is the peak without what the runtime needs before any model is loaded."
    )
    return Table("savings", "Size, speed and memory", columns, tuple(rows), note)


def benchmark_tables(results: Results) -> list[Table]:
    """One table per regime: measurements down, arms across."""
    costs = results["costs"]
    regimes = dict.fromkeys(
        m["regime"] for c in costs.values() for m in c["measurements"] if not own_table(m["regime"])
    )
    tables = []
    for regime in regimes:
        names = dict.fromkeys(
            m["name"] for c in costs.values() for m in c["measurements"] if m["regime"] == regime
        )
        rows = [
            (
                Cell(MEASUREMENT_NAMES.get(name, name)),
                *(_measured_cell(costs_of.measured(cost, regime, name)) for cost in costs.values()),
            )
            for name in names
            if "joules" not in name
        ]
        found = [
            m for cost in costs.values() for m in cost["measurements"] if m["regime"] == regime
        ]
        spreads = ", ".join(dict.fromkeys(m["spread"] for m in found if m.get("spread")))
        numbers = {
            arm: max(
                (m["n"] or 0 for m in cost["measurements"] if m["regime"] == regime), default=0
            )
            for arm, cost in costs.items()
        }
        note = "Measurements: " + ", ".join(f"{arm} {count(n)}" for arm, n in numbers.items()) + "."
        note = f"Spread: {spreads}. {note}" if spreads else note
        title = f"Benchmark: {condition(regime)}"
        columns = ("quantity", *costs)
        tables.append(Table(f"benchmark-{len(tables)}", title, columns, tuple(rows), note))
    return tables


def machines_table(results: Results) -> Table:
    """On what every arm was benchmarked."""
    rows = []
    for arm, cost in results["costs"].items():
        machine = cost.get("machine") or {}
        memory = machine.get("memory_gib")
        rows.append(
            (
                Cell(arm),
                Cell(str(machine.get("device", MISSING))),
                Cell(f"{machine.get('cpu', MISSING)}", f"{machine.get('cores', '?')} cores"),
                Cell(str(machine.get("threads", MISSING))),
                Cell(data_size(memory * 1024**3) if memory else MISSING),
                Cell(str(cost.get("precision"))),
                Cell(str(cost.get("runtime"))),
            )
        )
    columns = ("arm", "device", "processor", "threads", "memory", "precision", "runtime")
    note = energy_missing(results["benchmark"])
    return Table("machines", "Where it was measured", columns, tuple(rows), note)


def _gain(found: Mapping[str, Any] | None, name: str) -> str:
    if not found or found[name] is None:
        return ""
    return times(found[name]["gain"] if isinstance(found[name], Mapping) else found[name])


def _quantity(measurement: Mapping[str, Any] | None) -> str:
    return quantity(measurement["value"], measurement["unit"]) if measurement else MISSING


def _measured_cell(found: Mapping[str, Any] | None) -> Cell:
    if found is None:
        return Cell(MISSING)
    details = [found.get("memory_kind") or ""]
    if found.get("low") is not None and found.get("high") is not None:
        details.append(spread(found["low"], found["high"], found["unit"]))
    return Cell(_quantity(found), ", ".join(filter(None, details)))
