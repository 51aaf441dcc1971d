"""Embedding similarity: the cosine of answer and reference as a sentence encoder sees them.

    score = max over references of max(0, cos(e(answer), e(reference)))

with e the pooled and normalised states of a sentence encoder (Reimers and Gurevych 2019). Words
need not match, so a right answer in other words, or a longer one, is not punished as by overlap;
but it is blind to what its encoder is blind to: "left" and "right" are close. An answer without a
word has 0, unless the reference has none either. The corpus value is the mean over samples.

The encoder is a BERT-like model of transformers, a folder or a hub id that is on this machine
(nothing is downloaded), for example sentence-transformers/all-MiniLM-L6-v2. Its id and revision
stand in the scores: numbers of two encoders do not compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, ClassVar, Literal

from pydantic import Field

from limbeck.metrics import Array, Metric, column
from limbeck.metrics.sentences import encoder_folder, encoder_revision, sentence_encoder
from limbeck.records import Sample


class EmbeddingSimilarity(Metric):
    """Cosine of sentence embeddings with the nearest reference (0-1)."""

    name: ClassVar[str] = "Embedding similarity"

    kind: Literal["embedding_similarity"] = "embedding_similarity"
    model: str = Field(description="sentence encoder: a folder, or a hub id that is downloaded")
    revision: str | None = Field(default=None, description="branch, tag or commit on the hub")
    pooling: Literal["auto", "mean", "cls"] = Field(
        default="auto", description="of the tokens' states; auto: as the model's folder says"
    )

    def content_key(self) -> Any:
        """The encoder's weights."""
        return encoder_revision(self.model, self.revision)

    def statistics(
        self,
        predictions: Sequence[str],
        references: Sequence[Sequence[str]],
        samples: Sequence[Sample] | None = None,
    ) -> Array:
        """The similarity of each sample, to six decimals: what float32 holds for sure."""
        encoder = sentence_encoder(encoder_folder(self.model, self.revision), self.pooling)
        texts = list(dict.fromkeys([*predictions, *chain.from_iterable(references)]))
        rows = dict(zip(texts, encoder.vectors(texts).astype(float), strict=True))
        scores: list[float] = []
        for text, own in zip(predictions, references, strict=True):
            found = [
                float(rows[text] @ rows[reference])
                if text.strip()
                else float(not reference.strip())
                for reference in own
            ]
            scores.append(round(min(1.0, max([0.0, *found])), 6))
        return column(scores)

    def details(self, sums_d: Array, n: int) -> dict[str, float | str]:
        """Which encoder."""
        return {"model": self.model, "revision": encoder_revision(self.model, self.revision)}
