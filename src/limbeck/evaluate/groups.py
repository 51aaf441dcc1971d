"""Scores within groups of samples, such as the questions of one type, and their plain mean.

The mean over groups counts a rare type as much as a frequent one. Its bootstrap draws within each
group, of one independently of another, so that every resample holds all groups at their sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from limbeck.evaluate.comparison import (
    Arms,
    Bounds,
    Resample,
    Scored,
    arm_rows,
    mean_of,
    restricted,
)
from limbeck.metrics import Array
from limbeck.records import Sample

GROUP_KEYS = ("category", "question_type", "environment", "app")
"""Metadata by which scores are shown apart."""

Groups = dict[str, dict[str, dict[str, dict[str, Any]]]]
"""Metadata key -> group -> arm -> metric -> value, low, high, n."""

Means = dict[str, dict[str, dict[str, Any]]]
"""Metadata key -> arm -> metric -> value, low, high, n, groups."""


def group_rows(
    arms: Arms,
    scored: Sequence[Scored],
    samples: Sequence[Sample],
    bounds: Bounds,
    resample: Resample,
) -> tuple[Groups, Means]:
    """Means over seeds within each group, and over the groups, with n and intervals."""
    found: Groups = {}
    means: Means = {}
    for key in GROUP_KEYS:
        names = [sample.metadata.get(key) for sample in samples]
        groups = sorted({name for name in names if isinstance(name, str) and name})
        for one in scored:
            parts: dict[str, Scored] = {}
            for number, group in enumerate(groups, start=1):
                inside = [place for place, i in enumerate(one.kept) if names[i] == group]
                if inside:
                    parts[group] = restricted(one, inside, resample, number)
            for group, part in parts.items():
                by_arm = found.setdefault(key, {}).setdefault(group, {})
                for row in arm_rows(arms, [part], bounds):
                    score = row["scores"][one.metric.key]
                    kept = {"value": score["mean"], **{k: score[k] for k in ("low", "high", "n")}}
                    by_arm.setdefault(row["arm"], {})[one.metric.key] = kept
            if len(parts) > 1:
                for arm, models in arms.items():
                    score = _over_groups(list(parts.values()), list(models.values()), bounds)
                    means.setdefault(key, {}).setdefault(arm, {})[one.metric.key] = score
    return found, means


def _over_groups(parts: Sequence[Scored], models: Sequence[str], bounds: Bounds) -> dict[str, Any]:
    values = [part.results[name].value for part in parts for name in models]
    mean = float(np.mean(values))
    drawn: list[Array] = [mean_of([part.resampled[name] for name in models]) for part in parts]
    low, high = bounds(mean, mean_of(drawn))
    n = sum(len(part.kept) for part in parts)
    return {"value": mean, "low": low, "high": high, "n": n, "groups": len(parts)}
