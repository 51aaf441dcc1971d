"""What a training run counts: one step's report, and the sums that a checkpoint keeps."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class StepReport:
    """What a finished step reports; `parts` has each loss's mean."""

    loss: float
    parts: list[float]
    gradient_norm: float
    answer_tokens: int
    samples: int


@dataclass
class Counters:
    """What goes into a checkpoint beside tensors.

    `sums` are of the loss and its parts over the `rows` steps since the last row of metrics.jsonl.
    """

    skipped: int = 0
    samples: int = 0
    answer_tokens: int = 0
    micro_batch: int = 0
    sums: list[float] = field(default_factory=lambda: [])
    rows: int = 0

    def count(self, report: StepReport) -> None:
        """Take in a finished step."""
        self.samples += report.samples
        self.answer_tokens += report.answer_tokens
        values = [report.loss, *report.parts]
        before = self.sums or [0.0] * len(values)
        self.sums = [a + b for a, b in zip(before, values, strict=True)]
        self.rows += 1

    def means(self) -> list[float]:
        """Loss and parts, averaged over the steps since this was last asked."""
        found = [value / self.rows for value in self.sums]
        self.sums, self.rows = [], 0
        return found
