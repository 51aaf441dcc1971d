"""Scores where lengths are alike, so that a ranking can be told from a difference in length.

Overlap punishes an answer that is longer or shorter than its reference however right it is. Two
lengths are alike when the longer has at most `FACTOR` times the words of the shorter. Each pair of
arms is scored on the samples on which their answers are alike in length, and each arm on those on
which it is as long as the references (their mean). An arm's length is the mean over its seeds.

What is matched is chosen by looking at the answers: these scores explain the others and do not
replace them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from limbeck.evaluate.comparison import (
    Arms,
    Bounds,
    Resample,
    Scored,
    arm_rows,
    difference_rows,
    restricted,
)
from limbeck.metrics import Array
from limbeck.recipe.recipe import has_cost
from limbeck.records import Sample

FACTOR = 1.5
"""Lengths further apart than this are not alike."""


def length_matched(
    arms: Arms,
    scored: Sequence[Scored],
    texts: Mapping[str, Sequence[str]],
    samples: Sequence[Sample],
    bounds: Bounds,
    resample: Resample,
) -> dict[str, Any]:
    """Scores on the matched samples, for scores.json.

    Floors are left out.

    Args:
        arms: to compare.
        scored: every metric on all samples.
        texts: the answers of every model.
        samples: what was asked.
        bounds: of a value and its resamples.
        resample: see `limbeck.evaluate.comparison`.

    Returns:
        `factor`; `pairs`, each with a, b, n, the scores of both (arm -> metric) and the
        `differences` by metric; `to_references`, each with arm, n and scores by metric.
    """
    words = {
        arm: np.mean([[len(text.split()) for text in texts[m]] for m in models.values()], axis=0)
        for arm, models in arms.items()
        if has_cost(arm)
    }
    wanted = np.asarray(
        [np.mean([len(r.split()) for r in s.references]) if s.references else -1 for s in samples]
    )
    pairs: list[dict[str, Any]] = []
    for a, b in combinations(words, 2):
        alike = _alike(words[a], words[b])
        two = {arm: arms[arm] for arm in (a, b)}
        parts = _parts(scored, two, alike, resample)
        pairs.append(
            {
                "a": a,
                "b": b,
                "n": int(alike.sum()),
                "scores": {row["arm"]: row["scores"] for row in arm_rows(two, parts, bounds)},
                "differences": difference_rows(two, parts, bounds),
            }
        )
    alone: list[dict[str, Any]] = []
    for arm, own in words.items():
        alike = _alike(own, wanted) & (wanted >= 0)
        one = {arm: arms[arm]}
        [row] = arm_rows(one, _parts(scored, one, alike, resample), bounds)
        alone.append({"arm": arm, "n": int(alike.sum()), "scores": row["scores"]})
    return {"factor": FACTOR, "pairs": pairs, "to_references": alone}


def _alike(one: Array, other: Array) -> Any:
    return np.maximum(one, other) <= FACTOR * np.minimum(one, other)


def _parts(scored: Sequence[Scored], arms: Arms, alike: Any, resample: Resample) -> list[Scored]:
    """Every metric on the samples that are alike, of the models of these arms."""
    names = [name for models in arms.values() for name in models.values()]
    found: list[Scored] = []
    for one in scored:
        inside = [place for place, i in enumerate(one.kept) if alike[i]]
        if inside and one.results:
            own = Scored(one.metric, one.kept, {name: one.results[name] for name in names}, {})
            found.append(restricted(own, inside, resample, 0))
    return found
