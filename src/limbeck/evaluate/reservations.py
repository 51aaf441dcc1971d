"""What a reader must know before trusting the scores, one sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.evaluate.comparison import Arms, Scored, seed_pairs

LENGTH_RATIOS = (0.5, 2.0)
"""Outside these, answers are so much shorter or longer that overlap metrics mislead."""


def reservations(
    scored: Sequence[Scored],
    flips: Sequence[Mapping[str, Any]],
    lengths: dict[str, dict[str, float | None]],
    arms: Arms,
    samples: int,
) -> list[str]:
    """All warnings that apply, in a stable order."""
    return [
        *_left_out(scored, samples),
        *(flip["sentence"] for flip in flips),
        *_lengths(lengths),
        *_unpaired(arms),
        *_tiny(scored),
    ]


def _left_out(scored: Sequence[Scored], samples: int) -> list[str]:
    kinds: dict[int, list[str]] = {}
    for one in scored:
        if len(one.kept) < samples:
            kinds.setdefault(samples - len(one.kept), []).append(one.metric.key)
    return [
        f"{count} of {samples} samples have no reference for {', '.join(names)} and are left out"
        for count, names in kinds.items()
    ]


def _lengths(lengths: dict[str, dict[str, float | None]]) -> list[str]:
    low, high = LENGTH_RATIOS
    return [
        f"answers of {name} have {ratio:.2g} times the words of the references: "
        "overlap metrics punish that however right they are"
        for name, own in lengths.items()
        if (ratio := own["ratio"]) is not None and not low <= ratio <= high
    ]


def _unpaired(arms: Arms) -> list[str]:
    names = list(arms)
    found: list[str] = []
    for index, a in enumerate(names):
        for b in names[index + 1 :]:
            seeded = None not in arms[a] and None not in arms[b]
            pairs = len(seed_pairs(arms[a], arms[b]))
            if seeded and not pairs:
                found.append(f"{a} and {b} share no seed: their difference is not paired by seed")
            elif seeded and pairs < max(len(arms[a]), len(arms[b])):
                found.append(f"{a} and {b} are compared on the {pairs} seeds that both have")
    return found


def _tiny(scored: Sequence[Scored]) -> list[str]:
    return [
        "cider_d is 0 on a single sample: it weighs words by how few samples have them"
        for one in scored
        if one.metric.key == "cider_d" and len(one.kept) == 1
    ]
