"""ANLS: average normalised Levenshtein similarity, which forgives slips of reading.

    NL    = edits between answer and reference / length of the longer, in characters
    score = 1 - NL where NL < threshold, else 0; the best over the references

(Biten et al. 2019, "Scene text visual question answering", equation 1, threshold 0.5.) Case and
runs of white space do not count. The corpus value is the mean over samples, 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from pydantic import Field

from limbeck.metrics import Array, Metric, column
from limbeck.records import Sample


class Anls(Metric):
    """Average normalised Levenshtein similarity to the best reference (0-1)."""

    name: ClassVar[str] = "ANLS"

    kind: Literal["anls"] = "anls"
    threshold: float = Field(
        0.5, gt=0, le=1, description="share of edits from which an answer counts as wrong"
    )

    def statistics(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        samples: Sequence[Sample] | None = None,
    ) -> Array:
        """The similarity of each sample."""
        scores: list[float] = []
        for text, own in zip(predictions, references, strict=True):
            answer = _form(text)
            wanted = dict.fromkeys(map(_form, own))
            scores.append(max((self._similarity(answer, one) for one in wanted), default=0.0))
        return column(scores)

    def _similarity(self, answer: str, reference: str) -> float:
        if answer == reference:
            return 1.0
        longest = max(len(answer), len(reference))
        # So many edits are needed at least: a huge answer to a short question costs nothing.
        if abs(len(answer) - len(reference)) / longest >= self.threshold:
            return 0.0
        share = edit_distance(answer, reference) / longest
        return 1.0 - share if share < self.threshold else 0.0


def _form(text: str) -> str:
    return " ".join(text.lower().split())


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance: fewest insertions, deletions and substitutions of characters.

    A column of the table is held in the bits of two integers, where it rises and where it falls
    (Myers 1999; Hyyrö 2003, "A bit-vector algorithm for computing Levenshtein distance").
    """
    if len(first) > len(second):
        first, second = second, first
    if not first:
        return len(second)
    places: dict[str, int] = {}
    for index, character in enumerate(first):
        places[character] = places.get(character, 0) | (1 << index)
    full, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    rises, falls, distance = full, 0, len(first)
    for character in second:
        match = places.get(character, 0)
        steep = match | falls
        level = (((match & rises) + rises) ^ rises) | match
        right_rises = falls | (full & ~(level | rises))
        right_falls = rises & level
        distance += bool(right_rises & last) - bool(right_falls & last)
        right_rises = (right_rises << 1) | 1
        right_falls = right_falls << 1
        rises = full & (right_falls | ~(steep | right_rises))
        falls = full & right_rises & steep
    return distance
