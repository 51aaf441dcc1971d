"""From counts of tokens to fidelity of arms: means over tokens, with intervals over samples."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from limbeck.evaluate.bootstrap import bootstrap_values
from limbeck.evaluate.comparison import Arms, Bounds, Scored, arm_rows, difference_rows
from limbeck.evaluate.fidelity import FIDELITY
from limbeck.metrics import Array, Metric, MetricResult


class TokenMean(Metric):
    """A mean over tokens: each sample's sum, and how many tokens it has."""

    name: ClassVar[str] = "mean over tokens"

    kind: str

    def aggregate(self, sums: Array, n: int) -> Array:
        """Sum over tokens divided by their number."""
        return sums[..., 0] / np.maximum(sums[..., 1], 1)


AGREEMENT, KL = TokenMean(kind="token_agreement"), TokenMean(kind="kl_nats")


def fidelity_scores(
    folders: Mapping[str, Path], arms: Arms, bounds: Bounds, *, bootstrap: int, seed: int
) -> dict[str, Any] | None:
    """Fidelity of every arm that was compared with the teacher; None where none was asked for.

    Args:
        folders: of the stages of fidelity, by model.
        arms: of these models and others.
        bounds: of a value and its resamples.
        bootstrap: resamples.
        seed: of them.

    Returns:
        `top_k` and `tail_mass` (of the teacher's distributions, the part that was not kept);
        `teacher_agreement`, its own with what it wrote, which is 1 but for ties and answers cut;
        `samples` and `tokens` that were compared; `arms`, rows with `token_agreement` and
        `kl_nats`; `differences` between arms, paired; `left_out`, arm -> reason.
    """
    if not folders:
        return None
    read = {name: json.loads((folder / FIDELITY).read_text()) for name, folder in folders.items()}
    left_out: dict[str, str] = {}
    compared: Arms = {}
    for arm, models in arms.items():
        own = [read[name] for name in models.values() if name in read]
        reasons = [one["why_not"] for one in own if one["why_not"]]
        if reasons:
            left_out[arm] = reasons[0]
        elif own:
            compared[arm] = models
    found: dict[str, Any] = {"arms": [], "differences": [], "left_out": left_out}
    if not compared:
        return found
    names = [name for models in compared.values() for name in models.values()]
    scored = [
        _scored(metric, field, {name: read[name]["samples"] for name in names}, bootstrap, seed)
        for metric, field in ((AGREEMENT, "agreed"), (KL, "kl_nats"))
    ]
    first = read[names[0]]
    tokens = sum(row["tokens"] for row in first["samples"])
    return {
        "top_k": first["top_k"],
        "tail_mass": first["tail_mass"],
        "teacher_agreement": first["teacher_agreement"],
        "samples": len(first["samples"]),
        "tokens": tokens,
        **found,
        "arms": arm_rows(compared, scored, bounds),
        "differences": difference_rows(compared, scored, bounds),
    }


def _scored(
    metric: Metric,
    field: str,
    rows: Mapping[str, Sequence[Mapping[str, Any]]],
    resamples: int,
    seed: int,
) -> Scored:
    results: dict[str, MetricResult] = {}
    for name, own in rows.items():
        statistics = np.asarray([[row[field], row["tokens"]] for row in own], dtype=np.float64)
        value = float(metric.aggregate(statistics.sum(axis=0), len(own)))
        per_sample = [float(x) for x in metric.aggregate(statistics, 1)]
        results[name] = MetricResult(value, per_sample, statistics, {})
    drawn = bootstrap_values(
        metric, [one.statistics_nd for one in results.values()], resamples=resamples, seed=seed
    )
    kept = list(range(len(next(iter(rows.values())))))
    return Scored(metric, kept, results, dict(zip(results, drawn, strict=True)))
