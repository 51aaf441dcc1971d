"""A few rows of logits that turn into their own gradient: what the fused losses work on.

A block is small enough to stay in a processor's cache. For each temperature that some loss asks
for it computes, in float32, one softmax over the columns outside the teacher's kept tokens, and
what is known of the kept ones as [N, K] tensors. A loss adds gradients in one of three forms: a
multiple of the student's own distribution, numbers for the buckets, or a number for every column.
They are put together once, at the end, over the logits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from limbeck.losses.buckets import check_kept
from limbeck.records import AlignedSignal, TopK

if TYPE_CHECKING:
    from torch import Tensor

FAR_BELOW = -1e30
"""Stands for -inf where -inf would make NaN: a softmax over nothing but masked columns."""


@dataclass
class Tempered:
    """The student's distribution at one temperature.

    Attributes:
        share_NV: softmax over the columns that the teacher did not keep, 0 at the kept ones.
        log_q: log-probabilities of the kept tokens and of the others together [N, K + 1]; [N, K]
            where all are kept. Without kept tokens it is [N, 1], and 0.
        log_sum_N1: log sum_v exp((z_v - largest z) / T) over the whole vocabulary.
    """

    share_NV: Tensor
    log_q: Tensor
    log_sum_N1: Tensor


class Block:
    """Rows of logits, with their labels and the teacher's signal on them.

    Args:
        logits_NV: is overwritten by `write_gradient`, and may be before. Finite.
        labels_N: columns.
        teacher: the teacher's signal on these rows.
        wants_gradient: whether the `add_` methods do anything.
    """

    def __init__(
        self,
        logits_NV: Tensor,
        labels_N: Tensor,
        teacher: AlignedSignal | None,
        wants_gradient: bool,
    ) -> None:
        import torch

        self.logits_NV, self.teacher, self.wants_gradient = logits_NV, teacher, wants_gradient
        self._labels_N1 = labels_N.long().unsqueeze(-1)
        self._exact = torch.float64 if logits_NV.dtype == torch.float64 else torch.float32
        self.label_logits_N1 = logits_NV.gather(-1, self._labels_N1).to(self._exact)
        self._ids_NK: Tensor | None = None
        self._all_kept = False
        if isinstance(teacher, TopK):
            self._all_kept = check_kept(teacher, logits_NV.shape[-1]) == logits_NV.shape[-1]
            self._ids_NK = teacher.ids_NK.long()
            self._kept_NK = logits_NV.gather(-1, self._ids_NK).to(self._exact)
        self._at: dict[float, Tempered] = {}
        self._multiples: dict[float, Tensor] = {}
        self._of_kept: Tensor | None = None
        self._of_columns: Tensor | None = None
        self._of_labels = 0.0

    @cached_property
    def exact_NV(self) -> Tensor:
        """The logits in float32 (float64 stays), with the kept columns far below all others."""
        exact_NV = self.logits_NV.to(self._exact)
        return exact_NV if self._ids_NK is None else exact_NV.scatter_(-1, self._ids_NK, FAR_BELOW)

    @cached_property
    def _largest_rest_N1(self) -> Tensor:
        return self.exact_NV.amax(-1, keepdim=True)

    @cached_property
    def largest_N1(self) -> Tensor:
        """The largest logit of each row; logarithms are relative to it, to keep their digits."""
        rest_N1 = self._largest_rest_N1
        if self._ids_NK is None:
            return rest_N1
        return rest_N1.maximum(self._kept_NK.amax(-1, keepdim=True))

    def at(self, temperature: float) -> Tempered:
        """The student's distribution at a temperature; computed once for all losses."""
        import torch

        if temperature not in self._at:
            inverse = 1 / temperature
            share_NV, log_rest_N1 = softmax_and_log_sum(self.exact_NV, temperature)
            log_rest_N1 += (self._largest_rest_N1 - self.largest_N1) * inverse
            parts = [log_rest_N1]
            if self._ids_NK is not None:
                kept_NK = (self._kept_NK - self.largest_N1) * inverse
                # The others alone say more than 1 - (sum of the kept), which cancels to nothing.
                parts = [kept_NK] if self._all_kept else [kept_NK, log_rest_N1]
            log_q = torch.cat(parts, -1)
            log_sum_N1 = log_q.logsumexp(-1, keepdim=True)
            self._at[temperature] = Tempered(share_NV, log_q - log_sum_N1, log_sum_N1)
        return self._at[temperature]

    def add_distribution(self, temperature: float, weight: float | Tensor) -> None:
        """Gradient `weight` (a number, or [N, 1]) times the student's probability, everywhere."""
        if self.wants_gradient:
            self.add_buckets(temperature, self.at(temperature).log_q.exp() * weight)

    def add_buckets(self, temperature: float, gradient: Tensor) -> None:
        """Gradient of the kept tokens, and of the others together, shared out among them.

        Args:
            temperature: the others share as they share their probability at this temperature.
            gradient: [N, K + 1], or [N, K] where all are kept, or [N, 1] without kept tokens.
        """
        if not self.wants_gradient:
            return
        kept = 0 if self._ids_NK is None else self._ids_NK.shape[-1]
        if kept:
            own = gradient[:, :kept]
            self._of_kept = own if self._of_kept is None else self._of_kept + own
        if kept < gradient.shape[-1]:
            rest_N1, before = gradient[:, kept:], self._multiples.get(temperature)
            self._multiples[temperature] = rest_N1 if before is None else before + rest_N1

    def add_columns(self, gradient_NV: Tensor) -> None:
        """Gradient of every column; the tensor may be overwritten."""
        if self.wants_gradient:
            before = self._of_columns
            self._of_columns = gradient_NV if before is None else before.add_(gradient_NV)

    def add_labels(self, weight: float) -> None:
        """Gradient `weight` at the label of every row."""
        self._of_labels += weight

    def write_gradient(self, energy_V: Tensor | None = None) -> None:
        """Overwrite the logits with the sum of what was added.

        Args:
            energy_V: where given, the square of every column of the gradient is added to it.
        """
        import torch

        total_NV = self._of_columns
        for temperature, rest_N1 in self._multiples.items():
            share_NV = self._at[temperature].share_NV
            if total_NV is None:
                total_NV = share_NV.mul_(rest_N1)
            else:
                total_NV.addcmul_(share_NV, rest_N1)
        if total_NV is None:
            total_NV = torch.zeros_like(self.logits_NV, dtype=self._exact)
        if self._ids_NK is not None and self._of_kept is not None:
            total_NV.scatter_(-1, self._ids_NK, self._of_kept)
        if self._of_labels:
            # In float32, before rounding: at a likely label two numbers near 1 cancel here.
            of_labels_N1 = torch.full_like(self.label_logits_N1, self._of_labels)
            total_NV.scatter_add_(-1, self._labels_N1, of_labels_N1)
        self.logits_NV.copy_(total_NV)
        if energy_V is not None:
            energy_V += total_NV.square_().sum(0)


def softmax_and_log_sum(logits_NV: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """softmax(z / T), and log sum_v exp((z_v - largest z) / T) as [N, 1].

    The largest probability is 1 / sum, which spares a second pass of exponentials.
    """
    probabilities = (logits_NV if temperature == 1 else logits_NV * (1 / temperature)).softmax(-1)
    return probabilities, probabilities.amax(-1, keepdim=True).log().neg_()
