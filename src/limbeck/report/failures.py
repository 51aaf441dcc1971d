"""Where the student fails: the samples and groups on which it is furthest behind the teacher.

Everything is paired: per sample, the student's score (mean over its seeds) minus the teacher's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from limbeck.report.stage_files import read_json, read_jsonl

MAX_SAMPLES = 10
"""Samples that are listed."""
MIN_GROUP = 10
"""A group of fewer samples says too little to be listed."""
RESAMPLES, SEED = 1000, 0


def failures_of(
    evaluation: Path, scores: Mapping[str, Any], metric: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The student against the teacher, sample by sample and group by group, on one metric.

    Args:
        evaluation: the evaluation stage's folder.
        scores: the content of its scores.json.
        metric: the headline metric.

    Returns:
        None where the two were not both scored on the same samples; else how often the student is
        behind, even and ahead, the groups and the samples, the furthest behind first.
        Gaps are positive where the student is better.
    """
    models = {arm: _models(scores, arm) for arm in ("student", "teacher")}
    if metric is None or not all(models.values()):
        return None
    kind, sign = metric["kind"], 1 if metric["higher_is_better"] else -1
    per_sample = read_json(evaluation / "sample_scores.json")
    own, theirs = (_mean_scores(per_sample, models[arm], kind) for arm in ("student", "teacher"))
    if own is None or theirs is None or own.shape != theirs.shape:
        return None
    gaps = (own - theirs) * sign
    known = np.flatnonzero(~np.isnan(gaps))
    if not known.size:
        return None
    rows = list(read_jsonl(evaluation / f"predictions-{models['teacher'][0]}.jsonl"))
    answers = list(read_jsonl(evaluation / f"predictions-{models['student'][0]}.jsonl"))
    worst = [i for i in known[np.argsort(gaps[known], kind="stable")] if gaps[i] < 0]
    return {
        "metric": kind,
        "n": int(known.size),
        "behind": int((gaps[known] < 0).sum()),
        "even": int((gaps[known] == 0).sum()),
        "ahead": int((gaps[known] > 0).sum()),
        "groups": _groups(scores, rows, own, theirs, gaps, known),
        "shown_model": models["student"][0],
        "samples": [
            {
                "id": rows[i]["id"],
                "references": rows[i].get("references") or [],
                "teacher": rows[i]["prediction"],
                "student": answers[i]["prediction"],
                "teacher_score": float(theirs[i]),
                "student_score": float(own[i]),
                "gap": float(gaps[i]),
            }
            for i in worst[:MAX_SAMPLES]
        ],
    }


def _groups(
    scores: Mapping[str, Any],
    rows: Sequence[Mapping[str, Any]],
    own: np.ndarray,
    theirs: np.ndarray,
    gaps: np.ndarray,
    known: np.ndarray,
) -> list[dict[str, Any]]:
    """Every group that is large enough, with the paired bootstrap interval of its gap."""
    found = []
    for key, groups in (scores.get("groups") or {}).items():
        names = [(row.get("metadata") or {}).get(key) for row in rows]
        for group in groups:
            inside = np.asarray([i for i in known if names[i] == group], dtype=int)
            if inside.size < MIN_GROUP:
                continue
            low, high = _interval(gaps[inside], scores["confidence"])
            found.append(
                {
                    "by": key,
                    "group": group,
                    "n": int(inside.size),
                    "teacher": float(theirs[inside].mean()),
                    "student": float(own[inside].mean()),
                    "gap": float(gaps[inside].mean()),
                    "low": low,
                    "high": high,
                }
            )
    return sorted(found, key=lambda row: row["gap"])


def _interval(gaps: np.ndarray, confidence: float) -> tuple[float, float]:
    """Percentile bootstrap of the mean gap; the pairs are resampled."""
    draws = np.random.default_rng(SEED).integers(0, gaps.size, (RESAMPLES, gaps.size))
    tail = (1 - confidence) / 2
    low, high = np.quantile(gaps[draws].mean(axis=1), [tail, 1 - tail])
    return float(low), float(high)


def _models(scores: Mapping[str, Any], arm: str) -> list[str]:
    return [model["id"] for model in scores["models"] if model["arm"] == arm]


def _mean_scores(
    per_sample: Mapping[str, Mapping[str, Sequence[float | None]]], models: list[str], kind: str
) -> np.ndarray | None:
    """Mean over models of every sample's score; NaN where it has none."""
    columns = [(per_sample.get(model) or {}).get(kind) for model in models]
    if any(column is None for column in columns):
        return None
    if len({len(column) for column in columns if column is not None}) != 1:
        return None
    return np.asarray(columns, dtype=np.float64).mean(axis=0)
