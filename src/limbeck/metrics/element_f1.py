r"""Element F1: the listed interface elements as a set, compared with the reference's set.

An answer is one sentence, then a comma-separated list of key elements. How the list is found:

1. The list is what follows the first sentence: the first `.`, `!` or `?` that white space follows,
   or the first line break. Where there is neither, the list is what follows the first colon with
   white space after it, and without such a colon there is no list.
2. In what follows, everything up to the last colon that white space follows is a heading
   ("Key elements: ...") and dropped.
3. The list is cut at commas, semicolons and line breaks. From each item go: bullets (`-`, `*`, `•`)
   and numbering (`1.`, `2)`) in front, "and" and the articles in front, punctuation at both ends.
   What is left, in lower case and with single blanks, is an element; empty ones are dropped.

Where `metadata["elements"]` of a sample is a list of strings, that is the reference set (items
treated as in 3); otherwise the references are parsed and the one with the best F1 counts. A sample
without reference elements is left out. Value: mean F1 over samples; precision and recall, both
means over samples, are in the details. Matching is exact: "save button" is not "button".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, cast

import numpy as np

from limbeck.metrics import Array, Metric
from limbeck.records import Sample

_SENTENCE_END = re.compile(r"[.!?]\s|\n")
_HEADING = re.compile(r":\s")
_SEPARATOR = re.compile(r"[,;\n]")
_FRONT = re.compile(r"^(?:[-*•]\s+|\d{1,3}[.)]\s+)?(?:and\s+)?(?:(?:an?|the)\s+)?")
_EDGE = " \t\r.,;:!?\"'`*()[]{}“”‘’"


class ElementF1(Metric):
    """F1 of the set of listed elements (0-1), with precision and recall."""

    name: ClassVar[str] = "Element F1"

    kind: Literal["element_f1"] = "element_f1"

    def applies_to(self, references: Sequence[str], sample: Sample | None) -> bool:
        """Whether the reference lists any element."""
        return any(_reference_sets(references, sample))

    def statistics(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        samples: Sequence[Sample] | None = None,
    ) -> Array:
        """F1, precision and recall of each sample."""
        rows: list[tuple[float, float, float]] = []
        for index, (text, own) in enumerate(zip(predictions, references, strict=True)):
            elements = listed_elements(text)
            sets = _reference_sets(own, samples[index] if samples else None)
            rows.append(max((_scores(elements, other) for other in sets), default=(0.0, 0.0, 0.0)))
        return np.asarray(rows, dtype=np.float64)

    def details(self, sums_d: Array, n: int) -> dict[str, float | str]:
        """Mean precision and recall."""
        return {"precision": float(sums_d[1]) / n, "recall": float(sums_d[2]) / n}


def listed_elements(answer: str) -> frozenset[str]:
    """The set of elements that an answer lists, by the rules on top of this file."""
    answer = answer.strip()
    found = _SENTENCE_END.search(answer)
    if found is None:
        found = _HEADING.search(answer)
        if found is None:
            return frozenset()
    listing = answer[found.end() :]
    headings = list(_HEADING.finditer(listing))
    if headings:
        listing = listing[headings[-1].end() :]
    return _elements(_SEPARATOR.split(listing))


def _elements(items: Iterable[str]) -> frozenset[str]:
    cleaned = (_FRONT.sub("", " ".join(item.lower().split())).strip(_EDGE) for item in items)
    return frozenset(item for item in cleaned if item)


def _reference_sets(references: Sequence[str], sample: Sample | None) -> list[frozenset[str]]:
    given: Any = sample.metadata.get("elements") if sample is not None else None
    if isinstance(given, list):
        items = cast("list[Any]", given)
        if all(isinstance(item, str) for item in items):
            return [_elements(cast("list[str]", items))]
    return [listed_elements(reference) for reference in references]


def _scores(found: frozenset[str], wanted: frozenset[str]) -> tuple[float, float, float]:
    """F1, precision and recall of two sets; two empty sets agree."""
    if not found or not wanted:
        same = float(found == wanted)
        return same, same, same
    common = len(found & wanted)
    return 2 * common / (len(found) + len(wanted)), common / len(found), common / len(wanted)
