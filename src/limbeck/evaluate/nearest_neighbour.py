"""The floor that looks and copies: the gold answer of the nearest training picture.

Nearest is by the cosine of image embeddings: a model's vision tower, averaged over patches
(`limbeck.models.image_embedding`); nothing is trained. Only training samples with the same question
are looked at where there are any; else those of the same `question_type` (or `category`); else all.
Of equally near ones the first in the data wins, as it does for a sample without pictures, which has
no place among the others. Each row names its `neighbour` and their `similarity`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from limbeck.errors import DataError
from limbeck.evaluate.guesses import write_guesses
from limbeck.evaluate.most_frequent import group_of
from limbeck.progress import meter
from limbeck.recipe.sections import ModelSection
from limbeck.records import Sample

Vectors = NDArray[np.float32]
RULES = ("same question", "same type", "all")


def nearest_neighbour(
    output: Path,
    *,
    section: ModelSection,
    samples: Sequence[Sample],
    known: Sequence[Sample],
    data: Path,
    device: str,
) -> dict[str, Any]:
    """Write `predictions.jsonl` as a model would.

    Args:
        output: the stage's folder.
        section: the model whose vision tower looks.
        samples: what is asked.
        known: samples whose first gold answers are copied.
        data: the data stage's folder.
        device: where the tower runs.

    Raises:
        DataError: no known sample has a gold answer.
        UsageError: the model's tower cannot be run by itself.
    """
    from limbeck.models.image_embedding import image_embedding
    from limbeck.models.load import load_model

    answered = [sample for sample in known if sample.references]
    if not answered:
        raise DataError(
            "no training sample has a gold answer that could be copied",
            where="evaluate.models",
            mend="leave nearest_neighbour out",
        )
    loaded = load_model(section, device=device)

    def embed(sample: Sample) -> Vectors:
        item = loaded.encoder.encode(sample, data, None)
        return image_embedding(loaded, item).numpy()

    found = neighbours(samples, answered, embed)
    chosen = [(answered[place], similarity, rule) for place, similarity, rule in found]
    write_guesses(
        output,
        samples,
        [sample.references[0] for sample, _, _ in chosen],
        [{"neighbour": sample.id, "similarity": near} for sample, near, _ in chosen],
    )
    rules = {rule: sum(one == rule for _, _, one in chosen) for rule in RULES}
    return {"predictions": len(samples), "known": len(answered), "looked_among": rules}


def neighbours(
    samples: Sequence[Sample], known: Sequence[Sample], embed: Callable[[Sample], Vectors]
) -> list[tuple[int, float, str]]:
    """For each sample the place of its nearest in `known`, their cosine, and the rule that chose.

    Samples with the same pictures are embedded once.
    """
    vectors = _embedded([*known, *samples], embed)
    known_NH, asked_MH = vectors[: len(known)], vectors[len(known) :]
    by_rule: list[dict[str, list[int]]] = [defaultdict(list) for _ in RULES]
    for place, sample in enumerate(known):
        for own, key in zip(by_rule, _keys(sample), strict=True):
            own[key].append(place)
    found: list[tuple[int, float, str]] = []
    for sample, vector_H in zip(samples, asked_MH, strict=True):
        for rule, own, key in zip(RULES, by_rule, _keys(sample), strict=True):
            if places := own.get(key):
                cosines = known_NH[places] @ vector_H
                best = int(cosines.argmax())
                found.append((places[best], round(float(cosines[best]), 6), rule))
                break
    return found


def _keys(sample: Sample) -> tuple[str, str, str]:
    """What has to be equal by each rule."""
    texts = [
        part.get("text", "")
        for message in sample.messages
        for part in message["content"]
        if part["type"] == "text"
    ]
    return "\n".join(texts), group_of(sample), ""


def _embedded(samples: Sequence[Sample], embed: Callable[[Sample], Vectors]) -> Vectors:
    """Unit vectors [n, H]; zeros where there is no picture."""
    seen: dict[tuple[str, ...], Vectors] = {}
    pictures = [tuple(file.sha256 for file in sample.images) for sample in samples]
    with meter("image features", len({own for own in pictures if own})) as progress:
        for own, sample in zip(pictures, samples, strict=True):
            if own and own not in seen:
                vector_H = embed(sample)
                seen[own] = vector_H / max(float(np.linalg.norm(vector_H)), 1e-12)
                progress.advance()
    width = len(next(iter(seen.values()))) if seen else 1
    return np.stack([seen.get(own, np.zeros(width, np.float32)) for own in pictures])
