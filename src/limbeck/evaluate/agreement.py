"""How like the teacher's answers the others are as texts; cheap, and possible with any teacher.

`exact_text` is the share of answers that are the teacher's to the letter, white space at both ends
apart; `rouge_l` takes the teacher's answer for the only reference. Both say nothing of whether
anybody is right.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from limbeck.evaluate.comparison import Arms, Bounds, Scored, arm_rows
from limbeck.metrics import Metric
from limbeck.metrics.exact_match import ExactMatch
from limbeck.metrics.rouge_l import RougeL
from limbeck.recipe.recipe import has_cost
from limbeck.records import Sample

TEACHER = "teacher"
NAMES = {"exact_match": "exact_text", "rouge_l": "rouge_l"}

Score = Callable[[Metric, dict[str, list[str]], Sequence[Sample]], Scored]


def text_agreement(
    arms: Arms,
    texts: Mapping[str, list[str]],
    samples: Sequence[Sample],
    bounds: Bounds,
    score: Score,
) -> list[dict[str, Any]]:
    """Each arm but the floors beside the teacher; nothing where that was not evaluated.

    Returns:
        Rows as those of arms: `arm`, `seeds`, and `scores` with `exact_text` and `rouge_l`.
    """
    others = {arm: own for arm, own in arms.items() if arm != TEACHER and has_cost(arm)}
    if TEACHER not in arms or not others:
        return []
    [teacher] = arms[TEACHER].values()
    pairs = zip(samples, texts[teacher], strict=True)
    asked = [replace(sample, references=(answer,), metadata={}) for sample, answer in pairs]
    names = [name for models in others.values() for name in models.values()]
    own = {name: texts[name] for name in names}
    scored = [score(metric, own, asked) for metric in (ExactMatch(normalise=False), RougeL())]
    rows = arm_rows(others, scored, bounds)
    return [
        {**row, "scores": {NAMES[kind]: value for kind, value in row["scores"].items()}}
        for row in rows
    ]
