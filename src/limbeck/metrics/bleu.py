"""BLEU-4 of a corpus: n-gram precision with clipped counts and a brevity penalty.

    BLEU = exp(min(0, 1 - r / c)) * (p_1 p_2 p_3 p_4)^(1/4)

(Papineni et al. 2002), c words of the predictions, r words of each sample's closest reference
(the shorter of two equally close ones). Any number of references a sample. The scale is 0 to 1.

Two ways to count are in use and both are computed; `implementation` chooses which one is the value:

- `coco`: caption tokens (PTB, lower-case, no punctuation), as the COCO caption code; an order
  without a match counts as 1e-15.
- `sacrebleu`: cased `13a` tokens with exponential smoothing, as sacrebleu's default
  (Post 2018); its own 0-100 number and signature are in the details either way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import chain
from typing import ClassVar, Literal

import numpy as np

from limbeck.metrics import Array, Metric
from limbeck.metrics.ptb_tokenizer import words
from limbeck.records import Sample

ORDER = 4
# Columns of the statistics: words of the prediction, of the reference, matches, possible matches.
_COLUMNS = 2 + 2 * ORDER


class Bleu(Metric):
    """Corpus BLEU-4 against any number of references (0-1)."""

    name: ClassVar[str] = "BLEU-4"

    kind: Literal["bleu"] = "bleu"
    implementation: Literal["coco", "sacrebleu"] = "coco"

    @property
    def signature(self) -> str:
        """In sacrebleu's form, after the word in the recipe."""
        if self.implementation == "coco":
            return "bleu|nrefs:var|case:lc|eff:no|tok:ptb|smooth:coco"
        return f"bleu|{sacrebleu_signature()}"

    def statistics(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        samples: Sequence[Sample] | None = None,
    ) -> Array:
        """Counts of both implementations."""
        from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

        split = Tokenizer13a()

        def words_13a(text: str) -> tuple[str, ...]:
            return tuple(split(text.rstrip()).split())

        rows = [
            match_statistics(words(text), [words(r) for r in own])
            + match_statistics(words_13a(text), [words_13a(r) for r in own])
            for text, own in zip(predictions, references, strict=True)
        ]
        return np.asarray(rows, dtype=np.float64)

    def aggregate(self, sums: Array, n: int) -> Array:
        """BLEU of the chosen implementation."""
        if self.implementation == "coco":
            return _coco(sums[..., :_COLUMNS])[..., ORDER - 1]
        return _exponentially_smoothed(sums[..., _COLUMNS:])

    def details(self, sums_d: Array, n: int) -> dict[str, float | str]:
        """BLEU-1 to BLEU-4 on caption tokens (0-1), and sacrebleu's BLEU (0-100)."""
        cumulative = _coco(sums_d[:_COLUMNS])
        found: dict[str, float | str] = {
            f"bleu_{order}": float(cumulative[order - 1]) for order in range(1, ORDER + 1)
        }
        found["sacrebleu"] = 100.0 * float(_exponentially_smoothed(sums_d[_COLUMNS:]))
        found["sacrebleu_signature"] = sacrebleu_signature()
        return found


def sacrebleu_signature() -> str:
    """The signature in sacrebleu's own form."""
    import sacrebleu

    return f"nrefs:var|case:mixed|eff:no|tok:13a|smooth:exp|version:{sacrebleu.__version__}"


def match_statistics(prediction: Sequence[str], references: Sequence[Sequence[str]]) -> list[int]:
    """Lengths, then matches and possible matches for n = 1..4."""
    length = len(prediction)
    closest = min(((abs(len(r) - length), len(r)) for r in references), default=(0, 0))[1]
    allowed: Counter[tuple[str, ...]] = Counter()
    for reference in references:
        allowed |= _counts(reference)
    matches = [0] * ORDER
    for gram, count in _counts(prediction).items():
        if gram in allowed:
            matches[len(gram) - 1] += min(count, allowed[gram])
    possible = [max(0, length - n) for n in range(ORDER)]
    return [length, closest, *matches, *possible]


def _counts(tokens: Sequence[str]) -> Counter[tuple[str, ...]]:
    shifted = [tokens[start:] for start in range(ORDER)]
    grams = (zip(*shifted[:n], strict=False) for n in range(1, ORDER + 1))
    return Counter(chain.from_iterable(grams))


def _coco(sums: Array) -> Array:
    """BLEU-1 to BLEU-4, [..., 4], with the constants of the COCO caption code."""
    words_, closest = sums[..., 0], sums[..., 1]
    matches, possible = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    precision = (matches + 1e-15) / (possible + 1e-9)
    cumulative = np.cumprod(precision, axis=-1) ** (1 / np.arange(1, ORDER + 1))
    ratio = (words_ + 1e-15) / (closest + 1e-9)
    penalty = np.exp(np.minimum(0.0, 1 - 1 / ratio))
    return cumulative * penalty[..., None]


def _exponentially_smoothed(sums: Array) -> Array:
    """BLEU with smoothing method 3 of Chen and Cherry (2014), as sacrebleu's default."""
    words_, closest = sums[..., 0], sums[..., 1]
    matches, possible = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    empty = (matches == 0) & (possible > 0)
    halvings = np.cumsum(empty, axis=-1)
    counted = np.where(empty, 0.5**halvings, matches)
    precision = counted / np.maximum(possible, 1)
    # An order that no prediction is long enough for makes BLEU 0, and so does no match at all.
    scored = (matches.sum(axis=-1) > 0) & (possible > 0).all(axis=-1)
    logs = np.log(np.where(scored[..., None], precision, 1.0)).mean(axis=-1)
    penalty = np.minimum(0.0, 1 - closest / np.maximum(words_, 1))
    return np.where(scored, np.exp(logs + penalty), 0.0)
