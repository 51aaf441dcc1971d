"""Tables of how the time is spent: phases, first and later starts, energy, and served models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.report import cost as costs_of
from limbeck.report.format import MISSING, quantity, spread
from limbeck.report.table import Cell, Results, Table

COLD, LOAD, PHASES, SERVED = "cold_start", "load", "phases/", "served/"
_PHASES = ("pictures_ms", "processor_ms", "input_ms", "vision_ms", "prefill_ms")


def own_table(regime: str) -> bool:
    """Whether a regime's measurements stand in a table of this file."""
    return regime == COLD or regime.startswith(PHASES)


def measured_tables(results: Results) -> list[Table]:
    """Those of these tables that have rows."""
    makers = (phases_table, starts_table, energy_table, served_table)
    return [table for make in makers if (table := make(results)).rows]


def phases_table(results: Results) -> Table:
    """From a picture's file to the first token, part by part, and what a further token takes."""
    rows = []
    for arm, cost in results["costs"].items():
        regimes = dict.fromkeys(
            m["regime"] for m in cost["measurements"] if m["regime"].startswith(PHASES)
        )
        for regime in regimes:
            batch = regime.removeprefix(PHASES)
            cells = [cell(costs_of.measured(cost, regime, name)) for name in _PHASES]
            decoding = costs_of.measured(cost, f"fixed_length/{batch}", "decode_tokens_per_second")
            rows.append((Cell(arm, batch.replace("_", " ")), *cells, cell(decoding)))
    columns = ("arm", "open pictures", "processor", "inputs", "vision tower", "prefill", "decoding")
    note = (
        "Medians over batches, 5th to 95th percentile. Inputs: padded, moved to the device, "
        "embedded. The vision tower includes the projector; prefill is the language model up to "
        "the first token. Measured in generations of their own, because looking inside makes the "
        "device wait."
    )
    missing = [
        f" {model}: not taken ({why})."
        for model, found in results["benchmark"].items()
        if (why := found.get("without_phases"))
    ]
    return Table("phases", "Where the time goes", columns, tuple(rows), note + "".join(missing))


def starts_table(results: Results) -> Table:
    """The first start beside a later one: loading, and a first request beside warm ones."""
    rows = []
    for arm, cost in results["costs"].items():
        if costs_of.measured(cost, COLD, "load_seconds") is None:
            continue
        rows.append(
            (
                Cell(arm),
                cell(costs_of.measured(cost, COLD, "import_seconds")),
                cell(costs_of.measured(cost, COLD, "load_seconds")),
                cell(costs_of.measured(cost, LOAD, "load_seconds")),
                cell(costs_of.measured(cost, COLD, "latency_ms")),
                cell(costs_of.measured(cost, costs_of.FIXED, "latency_ms")),
            )
        )
    columns = ("arm", "imports", "load, cold", "load, warm", "first request", "later requests")
    states = dict.fromkeys(
        cache["state"]
        for found in results["benchmark"].values()
        if (cache := found.get("page_cache"))
    )
    note = (
        "Cold is a new process, measured once, with lazy imports in the loading; page cache: "
        f"{'; '.join(states) or 'unknown'}. Requests at batch 1 and fixed length, without "
        "preparation."
    )
    return Table("starts", "First and later starts", columns, tuple(rows), note)


def energy_table(results: Results) -> Table:
    """Joules a sample and a token, of what the machine counts."""
    rows, covers = [], {}
    for arm, cost in results["costs"].items():
        for one in cost["measurements"]:
            if not one["name"].endswith("_joules_per_sample") or one["value"] is None:
                continue
            source = one["name"].removesuffix("_joules_per_sample")
            covers[source] = one["covers"]
            token = costs_of.measured(cost, one["regime"], f"{source}_joules_per_token")
            regime = one["regime"].replace("_", " ").replace("/", ", ")
            rows.append((Cell(arm), Cell(regime), Cell(source), cell(one), cell(token)))
    note = " ".join(f"{source}: {text}." for source, text in covers.items())
    columns = ("arm", "regime", "counter", "a sample", "a token")
    return Table("energy", "Energy", columns, tuple(rows), note)


def energy_missing(benchmarks: Mapping[str, Mapping[str, Any]]) -> str:
    """Why there is no energy, in one sentence; empty where nothing is missing."""
    reasons = dict.fromkeys(
        reason
        for found in benchmarks.values()
        for reason in (found.get("energy") or {}).get("absent", ())
    )
    return f"No energy of: {'; '.join(reasons)}." if reasons else ""


def served_table(results: Results) -> Table:
    """What a client sees of models behind servers; nothing here is like a model that ran here."""
    rows, notes = [], []
    for name, found in results.get("served", {}).items():
        cost: dict[str, Any] = found
        for regime in dict.fromkeys(one["regime"] for one in found["measurements"]):
            names = (
                *("time_to_first_token_ms", "inter_token_ms", "latency_ms", "latency_p95_ms"),
                *("throughput_samples_per_second", "throughput_tokens_per_second"),
                "cost_per_thousand_samples",
            )
            shown = regime.removeprefix(SERVED).replace("_", " ").replace("/", ", ")
            rows.append(
                (Cell(name, shown), *(cell(costs_of.measured(cost, regime, n)) for n in names))
            )
        served = found["served"]
        told = "; ".join([f"network {served['network']}", *served["notes"]])
        notes.append(f"{name}: {served['model']} at {served['address']}, {told}.")
    columns = (
        *("served model", "first token", "a further token", "latency, p50", "latency, p95"),
        *("throughput, samples", "throughput, tokens", "cost of 1,000 samples"),
    )
    note = (
        "As a client sees it, network and server included; compare served models with one another, "
        "and with none that ran here. " + " ".join(notes)
    )
    return Table("served", "Served models", columns, tuple(rows), note)


def cell(found: Mapping[str, Any] | None) -> Cell:
    """A measurement with its spread."""
    if found is None or found["value"] is None:
        return Cell(MISSING)
    bounds: Sequence[Any] = (found.get("low"), found.get("high"))
    detail = "" if None in bounds else spread(bounds[0], bounds[1], found["unit"])
    return Cell(quantity(found["value"], found["unit"]), detail)
