"""CIDEr-D: consensus with the references in words that are rare in the evaluated set.

For each n = 1..4 a caption is the vector of its n-gram counts times log(N / df), N the number of
samples and df the number of samples whose references hold the n-gram (at least 1). Then

    CIDEr-D = 10 * mean over n and references of
              exp(-delta^2 / (2 sigma^2)) * sum min(c, r) * r / (|c| |r|)

(Vedantam, Zitnick, Parikh 2015, section 5), as the COCO caption code does it, quirks included: it
calls this CIDEr; delta is the difference in the number of *bigrams*, so captions of no and of one
word are equally long; a reference shorter than n words gives 0 for that n, so a short caption
cannot reach 10 even against itself; and one sample alone always gives 0, since log(1 / 1) = 0.

The document frequencies belong to the evaluated set: numbers of different sets do not compare.
The bootstrap resamples per-sample scores with the document frequencies held fixed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import ClassVar, Literal

from pydantic import Field

from limbeck.metrics import Array, Metric, column
from limbeck.metrics.ptb_tokenizer import words
from limbeck.records import Sample

Gram = tuple[str, ...]


class CiderD(Metric):
    """Consensus-based image description evaluation, CIDEr-D (0-10)."""

    name: ClassVar[str] = "CIDEr-D"
    scale: ClassVar[str] = "0-10"
    reads_corpus: ClassVar[bool] = True

    kind: Literal["cider_d"] = "cider_d"
    order: int = Field(4, gt=0, description="longest n-gram, words")
    sigma: float = Field(6.0, gt=0, description="of the penalty on length, words")
    tokenizer: Literal["ptb"] = "ptb"

    def statistics(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        samples: Sequence[Sample] | None = None,
    ) -> Array:
        """CIDEr-D of each sample."""
        counted = [[self._counts(text) for text in own] for own in references]
        frequency: Counter[Gram] = Counter()
        for own in counted:
            frequency.update(set(chain.from_iterable(chain.from_iterable(own))))
        log_n = math.log(len(references))
        rarity = {gram: log_n - math.log(count) for gram, count in frequency.items()}
        scores: list[float] = []
        for text, own in zip(predictions, counted, strict=True):
            candidate = _Vectors(self._counts(text), rarity, log_n)
            total = sum(self._similarity(candidate, _Vectors(c, rarity, log_n)) for c in own)
            scores.append(10.0 * total / max(1, len(own)))
        return column(scores)

    def _counts(self, text: str) -> list[Counter[Gram]]:
        """Counts of the n-grams, one counter for each n."""
        tokens = words(text)
        shifted = [tokens[start:] for start in range(self.order)]
        return [Counter(zip(*shifted[:n], strict=False)) for n in range(1, self.order + 1)]

    def _similarity(self, candidate: _Vectors, reference: _Vectors) -> float:
        delta = candidate.length - reference.length
        total = 0.0
        for n in range(self.order):
            ours, theirs = candidate.weights[n], reference.weights[n]
            norm = candidate.norms[n] * reference.norms[n]
            if norm:
                # In the order of the text: a set's order would change the last digit of the sum.
                total += sum(min(ours[g], w) * w for g, w in theirs.items() if g in ours) / norm
        return total / self.order * math.exp(-(delta**2) / (2 * self.sigma**2))


class _Vectors:
    """A caption's weighted n-gram counts, their norms, and its length."""

    def __init__(self, counts: list[Counter[Gram]], rarity: dict[Gram, float], unseen: float):
        self.weights = [
            {gram: count * rarity.get(gram, unseen) for gram, count in order.items()}
            for order in counts
        ]
        self.norms = [math.sqrt(sum(w * w for w in order.values())) for order in self.weights]
        self.length = counts[1].total() if len(counts) > 1 else 0
