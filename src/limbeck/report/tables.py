"""The report's tables, built once from the results and rendered as HTML and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from limbeck.report import cost as costs_of
from limbeck.report.format import (
    MISSING,
    condition,
    count,
    data_size,
    decimal,
    interval,
    parameters,
    percent,
    quantity,
    score_decimals,
    significant,
    spread,
    times,
)
from limbeck.report.verdict import outcome

Results = Mapping[str, Any]

MEASUREMENT_NAMES = {
    "latency_ms": "latency, p50",
    "latency_p95_ms": "latency, p95",
    "time_to_first_token_ms": "time to first token",
    "decode_tokens_per_second": "decoding",
    "throughput_samples_per_second": "throughput, samples",
    "throughput_tokens_per_second": "throughput, tokens",
    "peak_memory_mib": "peak memory",
    "load_seconds": "load time",
}
OUTCOMES = {
    "better": "better",
    "worse": "worse",
    "tie": "no difference we can tell",
    "not_measured": "not measured",
}


@dataclass(frozen=True)
class Cell:
    """A table's cell: its text, a smaller second part, and a tone that the style sheet knows."""

    text: str
    detail: str = ""
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption; the first cell of a row is its heading."""

    key: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""


def scores_table(results: Results) -> Table:
    """Arms down, metrics across: mean over seeds with its interval."""
    scores = results["evaluation"]
    digits = _digits(scores)
    rows = []
    for arm in scores["arms"]:
        cells = [_arm_cell(arm)]
        for metric in scores["metrics"]:
            found = arm["scores"].get(metric["kind"])
            cells.append(_score_cell(found, digits[metric["kind"]]))
        rows.append(tuple(cells))
    columns = [f"{m['name']} {'↑' if m['higher_is_better'] else '↓'}" for m in scores["metrics"]]
    note = (
        f"{count(scores['n'])} samples; brackets: {percent(scores['confidence'], 0)} bootstrap "
        f"interval over samples ({count(scores['bootstrap'])} resamples); ± standard deviation "
        "over seeds. ↑ more is better, ↓ less is better."
    )
    return Table("scores", "Scores", ("arm", *columns), tuple(rows), note)


def seeds_table(results: Results) -> Table:
    """Every model on its own: one row per arm and seed."""
    scores = results["evaluation"]
    digits = _digits(scores)
    rows = [
        (
            Cell(model["id"]),
            *(
                _score_cell(model["scores"].get(metric["kind"]), digits[metric["kind"]])
                for metric in scores["metrics"]
            ),
        )
        for model in scores["models"]
    ]
    columns = ("model", *(metric["name"] for metric in scores["metrics"]))
    return Table("seeds", "Scores of every model", columns, tuple(rows))


def differences_table(results: Results) -> Table:
    """Paired differences between arms, with what may be concluded from each."""
    scores = results["evaluation"]
    metrics = {metric["kind"]: metric for metric in scores["metrics"]}
    digits = _digits(scores)
    rows = []
    for one in scores["differences"]:
        metric = metrics.get(one["metric"])
        if metric is None:
            continue
        judged, why = outcome(one, metric["higher_is_better"])
        places = digits[one["metric"]]
        seeds = ", ".join(decimal(s["value"], places, signed=True) for s in one["per_seed"])
        rows.append(
            (
                Cell(f"{one['a']} − {one['b']}"),
                Cell(metric["name"]),
                Cell(
                    decimal(one["mean"], places, signed=True),
                    interval(one["low"], one["high"], places),
                ),
                Cell(seeds or MISSING),
                Cell(_conclusion(one["a"], judged), "" if "agree in sign" in why else why, judged),
            )
        )
    columns = ("pair", "metric", "difference", "each seed", "conclusion")
    note = (
        "Differences are paired: the same samples are resampled for both. One counts only when its "
        "interval excludes 0 and all seeds agree in sign."
    )
    return Table("differences", "Paired differences", columns, tuple(rows), note)


def lengths_table(results: Results) -> Table:
    """How long the answers are, beside the references; a guard against length bias."""
    rows = []
    for model in results["evaluation"]["models"]:
        found = model.get("lengths") or {}
        rows.append(
            (
                Cell(model["id"]),
                Cell(decimal(found.get("words_mean"), 1)),
                Cell(decimal(found.get("reference_words_mean"), 1)),
                Cell(times(found.get("ratio"))),
                Cell(decimal(found.get("new_tokens_mean"), 1)),
                Cell(percent(found.get("finished_share"))),
                Cell(percent(found.get("empty_share"))),
            )
        )
    columns = ("model", "words", "reference words", "ratio", "new tokens", "finished", "empty")
    note = (
        "Means per answer. An overlap metric punishes correct answers that are longer or shorter."
    )
    return Table("lengths", "Answer lengths", columns, tuple(rows), note)


def group_tables(results: Results) -> list[Table]:
    """One table per grouping of the samples: the headline metric of every arm in every group."""
    scores, kind = results["evaluation"], results["headline"]
    arms = [arm["arm"] for arm in scores["arms"]]
    name = next((m["name"] for m in scores["metrics"] if m["kind"] == kind), kind)
    tables = []
    for key, groups in (scores.get("groups") or {}).items():
        places = _digits(scores).get(kind, 3)
        rows = []
        for group, by_arm in groups.items():
            found = [(by_arm.get(arm) or {}).get(kind) or {} for arm in arms]
            number = next((f["n"] for f in found if f.get("n") is not None), None)
            values = [Cell(decimal(f.get("value"), places)) for f in found]
            rows.append((Cell(str(group)), Cell(count(number)), *values))
        columns = (key, "n", *arms)
        tables.append(Table(f"groups-{len(tables)}", f"{name} by {key}", columns, tuple(rows)))
    return tables


def savings_table(results: Results) -> Table:
    """What every arm saves against the teacher: size, latency, memory, each with its values."""
    rows = []
    for arm, cost in results["costs"].items():
        found = results["gains"].get(arm)
        latency, memory = costs_of.latency(cost), costs_of.peak_memory(cost)
        kind = (memory or {}).get("memory_kind") or ""
        rows.append(
            (
                Cell(arm),
                Cell(parameters(cost["parameters"]), _gain(found, "parameters")),
                Cell(data_size(cost["disk_bytes"]), _gain(found, "disk_bytes")),
                Cell(_quantity(latency), _gain(found, "latency")),
                Cell(_quantity(memory), " ".join(filter(None, [kind, _gain(found, "memory")]))),
                Cell(str(cost["precision"]), "mixed pair" if found and found["mixed"] else ""),
            )
        )
    columns = ("arm", "parameters", "on disk", "latency, p50", "peak memory", "precision")
    note = (
        "The factor says how many times less than the teacher an arm needs (below 1: more). "
        "Latency and memory at batch 1, natural answer length where measured."
    )
    return Table("savings", "Size, speed and memory", columns, tuple(rows), note)


def benchmark_tables(results: Results) -> list[Table]:
    """One table per regime: measurements down, arms across."""
    costs = results["costs"]
    regimes = dict.fromkeys(m["regime"] for c in costs.values() for m in c["measurements"])
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
        note = f"Small numbers: {spreads}. {note}" if spreads else note
        title = f"Benchmark: {condition(regime)}"
        columns = ("quantity", *costs)
        tables.append(Table(f"benchmark-{len(tables)}", title, columns, tuple(rows), note))
    return tables


def facts_table(key: str, caption: str, facts: Any, first: str = "fact") -> Table:
    """Any nested value as dotted names and values, at most 80 rows."""
    flat = list(_flattened(facts, ""))
    rows = tuple((Cell(name), Cell(text)) for name, text in flat[:80])
    note = f"{len(flat) - 80} more rows are in results.json." if len(flat) > 80 else ""
    return Table(key, caption, (first, "value"), rows, note)


def all_tables(results: Results) -> list[Table]:
    """Every table of results, in reading order, without the empty ones."""
    tables = [
        scores_table(results),
        differences_table(results),
        savings_table(results),
        *benchmark_tables(results),
        lengths_table(results),
        *group_tables(results),
        seeds_table(results),
    ]
    return [table for table in tables if table.rows]


def _digits(scores: Mapping[str, Any]) -> dict[str, int]:
    return {
        metric["kind"]: score_decimals(
            found["mean"]
            for arm in scores["arms"]
            if (found := arm["scores"].get(metric["kind"])) is not None
        )
        for metric in scores["metrics"]
    }


def _arm_cell(arm: Mapping[str, Any]) -> Cell:
    seeds = [seed for seed in arm["seeds"] if seed is not None]
    return Cell(arm["arm"], f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''}" if seeds else "")


def _score_cell(found: Mapping[str, Any] | None, digits: int) -> Cell:
    if not found:
        return Cell(MISSING)
    value = found.get("mean", found.get("value"))
    detail = interval(found.get("low"), found.get("high"), digits)
    if found.get("sd") is not None and len(found.get("per_seed") or ()) > 1:
        detail += f" ± {decimal(found['sd'], digits)}"
    return Cell(decimal(value, digits), detail if found.get("low") is not None else "")


def _conclusion(arm: str, judged: str) -> str:
    return f"{arm} {OUTCOMES[judged]}" if judged in ("better", "worse") else OUTCOMES[judged]


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


def _flattened(value: Any, prefix: str) -> list[tuple[str, str]]:
    if isinstance(value, Mapping):
        found: list[tuple[str, str]] = []
        for key, item in value.items():
            name = str(key).replace("_", " ")
            found += _flattened(item, f"{prefix} · {name}" if prefix else name)
        return found
    if isinstance(value, Sequence) and not isinstance(value, str):
        if any(isinstance(item, Mapping | list) for item in value):
            return [(prefix, f"{len(value)} items")] if len(value) > 6 else _indexed(value, prefix)
        return [(prefix, shortened(", ".join(_plain(item) for item in value), 200))]
    return [(prefix, shortened(_plain(value), 200))]


def _indexed(values: Sequence[Any], prefix: str) -> list[tuple[str, str]]:
    return [row for i, item in enumerate(values) for row in _flattened(item, f"{prefix} {i + 1}")]


def _plain(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: MISSING}[value]
    if isinstance(value, int):
        return count(value)
    return significant(value, 4) if isinstance(value, float) else str(value)


def shortened(text: str, limit: int) -> str:
    """The text, or its beginning with a note on how long it was."""
    if len(text) <= limit:
        return text
    return f"{text[:limit]}… (shortened: {count(len(text))} characters)"
