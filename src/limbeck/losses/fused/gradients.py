"""The gradients of a head's bias, inputs and weights, gathered chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from limbeck.losses.fused.memory import Buffers

_FIRST_WEIGHT = 2
"""Its place in `Gradients.found`."""


class Gradients:
    """`found` holds those of the bias and of each term's input and weight, or None if not wanted.

    Args:
        columns: the rows of the weights that take part; the others get 0.
        rows: of the inputs, in all chunks together.
        bias_R: or None.
        tensors: input and weight of each term in turn.
        wanted: for the bias and each of the tensors.
        filtered: whether columns of the logits will be left out of the first weight's.
        buffers: where their memory comes from.
    """

    def __init__(
        self,
        columns: slice,
        rows: int,
        bias_R: Tensor | None,
        tensors: Sequence[Tensor],
        wanted: Sequence[bool],
        filtered: bool,
        buffers: Buffers,
    ) -> None:
        self._columns, self._tensors = columns, tensors
        self.found: list[Tensor | None] = [None] * (1 + len(tensors))
        for number, (tensor, is_wanted) in enumerate(zip([bias_R, *tensors], wanted, strict=False)):
            if tensor is None or not is_wanted:
                continue
            gradient = buffers.take(
                tensor.shape, tensor, zeroed=filtered and number == _FIRST_WEIGHT
            )
            self.found[number] = gradient
            if number % 2 == 0:  # the bias and the weights, which have rows that are not shared
                gradient[: columns.start] = 0
                gradient[columns.stop :] = 0
                if number == 0 or not rows:
                    gradient.zero_()

    def add(self, gradient_NV: Tensor, chunk: slice, kept_K: Tensor | None) -> None:
        """Take in the gradient of a chunk's logits.

        Args:
            gradient_NV: the gradient.
            chunk: its rows.
            kept_K: the columns that enter the gradient of the first weight, or None for all.
        """
        columns, (of_bias_R, *found) = self._columns, self.found
        if of_bias_R is not None:
            of_bias_R[columns] += gradient_NV.sum(0)
        for at in range(0, len(found), 2):
            (input_NH, weight_RH), (of_input_NH, of_weight_RH) = (
                self._tensors[at : at + 2],
                found[at : at + 2],
            )
            if of_input_NH is not None:
                torch.mm(gradient_NV, weight_RH[columns], out=of_input_NH[chunk])
            if of_weight_RH is not None:
                own = of_weight_RH[columns]
                if kept_K is not None and at + 2 == _FIRST_WEIGHT:
                    of_kept_NK = gradient_NV.index_select(1, kept_K)
                    own.index_add_(0, kept_K, of_kept_NK.T @ input_NH[chunk])
                elif chunk.start == 0:
                    torch.mm(gradient_NV.T, input_NH[chunk], out=own)
                else:
                    own.addmm_(gradient_NV.T, input_NH[chunk])
