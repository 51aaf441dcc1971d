"""Tables of facts: data, labels, training, stages and versions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.report.format import (
    MISSING,
    count,
    decimal,
    duration,
    percent,
    quantity,
    significant,
)
from limbeck.report.licences import UNKNOWN
from limbeck.report.table import Cell, Results, Table, shortened

SIGNALS = {
    "top_k": "top k, cached",
    "hidden": "hidden states, cached",
    "live": "live teacher",
    None: "none",
}


def facts_table(key: str, caption: str, facts: Any, first: str = "fact") -> Table:
    """Any nested value as dotted names and values, at most 80 rows."""
    flat = list(_flattened(facts, ""))
    rows = tuple((Cell(name), Cell(text)) for name, text in flat[:80])
    note = f"{len(flat) - 80} more rows are in results.json." if len(flat) > 80 else ""
    return Table(key, caption, (first, "value"), rows, note)


def distributions_table(distributions: Mapping[str, Mapping[str, Any]]) -> Table:
    """Mean, median and the middle nine tenths of every counted quantity of the data."""
    rows = []
    for name, found in distributions.items():
        quantiles = found["quantiles"]
        middle = " to ".join(significant(quantiles.get(q)) for q in ("0.05", "0.95"))
        rows.append(
            (
                Cell(name),
                Cell(significant(found["mean"])),
                Cell(significant(quantiles.get("0.5"))),
                Cell(middle),
                Cell(" to ".join(significant(quantiles.get(q)) for q in ("0", "1"))),
            )
        )
    columns = ("quantity", "mean", "median", "5 to 95 %", "least to most")
    return Table("distributions", "Lengths and sizes", columns, tuple(rows))


def training_table(results: Results) -> Table:
    """Steps, time and final loss of every trained model."""
    rows = []
    for model, found in results["training"].items():
        curve = found["curve"]
        speeds = [value for value in curve["tokens_per_second"] if value is not None]
        loss = next((value for value in reversed(curve["loss"]) if value is not None), None)
        rows.append(
            (
                Cell(model),
                Cell(count(found["steps"])),
                Cell(duration(found["seconds"])),
                Cell(_time_per_step(found)),
                Cell(percent(found["data_wait_share"])),
                Cell(count(sum(speeds) / len(speeds)) if speeds else MISSING),
                Cell(decimal(loss, 4)),
            )
        )
    columns = ("model", "steps", "time", "a step", "waiting for data", "tokens/s", "last loss")
    note = (
        "Losses of different arms are different objectives; compare scores, not losses. A step's "
        "time is that of the loop; the whole time includes loading, checks and saving."
    )
    return Table("training", "Training", columns, tuple(rows), note)


def growth_table(results: Results) -> Table:
    """What became of the answers of every round in which training data grew."""
    rows = []
    for model, found in results["training"].items():
        for one in found["summary"].get("grown", ()):
            labelled, kept = one.get("labelled"), one.get("kept")
            sure = one.get("mean_log_probability_kept")
            rows.append(
                (
                    Cell(model),
                    Cell(str(one["round"])),
                    Cell(one["labeller"] if labelled else f"{one['labeller']} (first labels)"),
                    Cell(count(labelled) if labelled else MISSING),
                    Cell(count(one["fit"]) if labelled else MISSING),
                    Cell(count(kept), percent(kept / labelled)) if labelled else Cell(MISSING),
                    Cell(decimal(one.get("mean_log_probability"), 3) if labelled else MISSING),
                    Cell(decimal(sure, 3) if labelled else MISSING),
                    Cell(count(one["trained_on"])),
                )
            )
    columns = (
        *("model", "round", "answers of", "labelled", "fit", "kept", "confidence"),
        *("of the kept", "trained on"),
    )
    note = (
        "Of the last training of each model. Confidence: mean log-probability a token. Trained on: "
        "what is left of the kept when a sample's latest answer replaces earlier ones and "
        "grow.ratio is applied."
    )
    return Table("growth", "Rounds of growing", columns, tuple(rows), note)


def signals_table(results: Results) -> Table:
    """Where every trained model's teacher distributions came from, what they keep and cost."""
    cache = (results["labels"] or {}).get("signals") or {}
    rows = []
    for model, found in results["training"].items():
        kind = found["summary"].get("signal")
        cached = cache if kind in ("top_k", "hidden") else {}
        tails = [f"{percent(m, 2)} at T = {t}" for t, m in (cached.get("tail_mass") or {}).items()]
        exact = {"top_k": MISSING, None: MISSING}.get(kind, "none")
        rows.append(
            (
                Cell(model),
                Cell(SIGNALS.get(kind, str(kind))),
                Cell(significant(cached.get("bytes_per_token"), 4)),
                Cell(", ".join(tails) or exact),
                Cell(f"{significant(cached['kl_nats'])} nats" if "kl_nats" in cached else MISSING),
                Cell(_time_per_step(found)),
            )
        )
    columns = ("model", "signal", "bytes a token", "mass not kept", "KL added by coding", "a step")
    note = (
        "Of the top k the mass beyond them is kept as one number, the tail; hidden states give "
        "every token, and their coding is measured as the divergence that it adds at T = 1."
    )
    signalled = any(found["summary"].get("signal") for found in results["training"].values())
    caption = "The teacher's distributions"
    return Table("signals", caption, columns, tuple(rows) if signalled else (), note)


def matches_table(results: Results) -> Table:
    """How often each target layer of a student was matched with each of the teacher's."""
    found = {
        model: one["matches"] for model, one in results["training"].items() if one.get("matches")
    }
    widest = max((len(matrix[0]) for matrix in found.values()), default=0)
    rows = []
    for model, matrix in found.items():
        for layer, counts in enumerate(matrix):
            total = sum(counts)
            shares = [percent(one / total) if total else MISSING for one in counts]
            padded = [*shares, *[""] * (widest - len(shares))]
            rows.append((Cell(model), Cell(str(layer + 1)), *map(Cell, padded)))
    columns = ("model", "student's layer", *(f"teacher's {n + 1}" for n in range(widest)))
    note = (
        "Target layers, counted from the first. Of all choices while training: how many fell on"
        " which of the teacher's."
    )
    return Table("matches", "Which layers learnt from which", columns, tuple(rows), note)


def _time_per_step(found: Mapping[str, Any]) -> str:
    seconds = found["seconds_per_step"]
    return MISSING if seconds is None else quantity(seconds * 1000, "ms")


def stages_table(results: Results) -> Table:
    """The stages the report rests on."""
    timed = any(stage.get("seconds") is not None for stage in results["stages"])
    rows = []
    for stage in results["stages"]:
        cells = [
            Cell(str(stage.get("kind"))),
            Cell(str(stage.get("title") or "")),
            Cell(str(stage.get("fingerprint"))),
        ]
        if timed:
            origin = "from an earlier run" if stage.get("cached") else ""
            cells.append(Cell(duration(stage.get("seconds")), origin))
        rows.append(tuple(cells))
    columns = ("stage", "of", "fingerprint", *(["time"] if timed else []))
    return Table("stages", "Stages", columns, tuple(rows))


def licences_table(results: Results) -> Table:
    """Under which licences data and models stand, and where that was found."""
    rows = tuple(
        (
            Cell(row["of"]),
            Cell(row["name"]),
            Cell(row["licence"] or UNKNOWN, tone="" if row["licence"] else "worse"),
            Cell(row["source"]),
        )
        for row in results["licences"]
    )
    note = (
        "A student inherits obligations from the data and from the models it was made of. What is "
        "not recorded can be stated in report.licences of the recipe."
    )
    columns = ("of", "name", "licence", "found in")
    return Table("licences", "Licences", columns, rows, note, prose=True)


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
