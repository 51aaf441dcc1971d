"""Where the ranking of two arms depends on the metric, or on how long their answers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.metrics import Metric

Row = Mapping[str, Any]

MATCHED_AT_LEAST = 10
"""On fewer samples of like length an interval is too coarse to speak of a ranking."""


def flips(
    metrics: Sequence[Metric], differences: Sequence[Row], matched: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Rankings that turn around, at least one side of each beyond the noise.

    Args:
        metrics: those that have no better end as large values are left out.
        differences: of all pairs, on all samples.
        matched: the content of `length_matched`.

    Returns:
        Each with `a` and `b`; `between`, "metrics" or "lengths"; `above` and `below`, the metrics
        (or "all samples" and "alike in length" of `metric`) by which a is above b or below, each
        with its difference; `beyond_noise`, whether both sides have one whose interval excludes 0;
        and the sentence.
    """
    upward = {metric.key for metric in metrics if metric.higher_is_better}
    pairs: dict[tuple[str, str], dict[str, Row]] = {}
    for row in differences:
        if row["metric"] in upward:
            pairs.setdefault((row["a"], row["b"]), {})[row["metric"]] = row
    found = [_flip(a, b, "metrics", rows) for (a, b), rows in pairs.items()]
    for pair in matched["pairs"]:
        for row in pair["differences"]:
            whole = pairs.get((pair["a"], pair["b"]), {}).get(row["metric"])
            if whole is not None and row["n"] >= MATCHED_AT_LEAST:
                both = {"on all samples": whole, f"on the {row['n']} alike in length": row}
                found.append(_flip(pair["a"], pair["b"], "lengths", both, row["metric"]))
    return [one for one in found if one is not None]


def _flip(
    a: str, b: str, between: str, rows: Mapping[str, Row], metric: str = ""
) -> dict[str, Any] | None:
    above = {name: row for name, row in rows.items() if row["mean"] > 0}
    below = {name: row for name, row in rows.items() if row["mean"] < 0}
    if not above or not below or not any(map(beyond_noise, rows.values())):
        return None
    real = all(any(map(beyond_noise, side.values())) for side in (above, below))
    by = "by " if between == "metrics" else ""
    what = "the metric" if between == "metrics" else f"the answers' lengths ({metric})"
    sentence = (
        f"the ranking depends on {what}: {a} is above {b} {by}{_named(above)}, "
        f"below {by}{_named(below)}: a flip {'beyond' if real else 'within'} the noise"
    )
    kept = ("mean", "low", "high", "n")
    return {
        "a": a,
        "b": b,
        "between": between,
        "metric": metric or None,
        "above": {name: {k: row[k] for k in kept} for name, row in above.items()},
        "below": {name: {k: row[k] for k in kept} for name, row in below.items()},
        "beyond_noise": real,
        "sentence": sentence,
    }


def beyond_noise(row: Row) -> bool:
    """Whether the interval of a paired difference excludes 0."""
    return row["low"] > 0 or row["high"] < 0


def _named(side: Mapping[str, Row]) -> str:
    """What ranks so; those whose interval holds 0 say so."""
    return ", ".join(
        name + ("" if beyond_noise(row) else " (within the noise)") for name, row in side.items()
    )
