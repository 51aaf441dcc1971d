"""Language head and losses in one pass over the supervised rows, without N x V numbers in memory.

Rows go through in chunks: the chunk's logits are computed into one buffer, block by block every
loss turns them into its gradient in place (`limbeck.losses.block`), and from that gradient G come
those of the head's inputs, G W, and of its weights, G^T h. So a step costs the three matrix
products that it cannot do without, and the largest thing in memory besides the weights' gradient is
one chunk of logits in the precision of the matrix product.

This is a folder because it imports torch: looking for losses by name imports the files beside it.

The gradients are computed in the forward pass, for the weighted total of the losses; the backward
pass multiplies them by what comes in and hands them to autograd. So accumulation, loss scaling,
tied embeddings and the hooks of distributed training work as they do for any other function.

With a tolerance the gradient of the head's weights is computed for those tokens only that matter to
it (`limbeck.losses.fused.columns`); all other gradients and the values are the same, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from limbeck.errors import UsageError
from limbeck.losses import Loss
from limbeck.losses.block import Block
from limbeck.losses.chunks import BLOCK_ELEMENTS, BLOCK_ELEMENTS_ELSEWHERE, CHUNK_ROWS
from limbeck.losses.fused.columns import kept_columns
from limbeck.losses.fused.gradients import Gradients
from limbeck.losses.fused.memory import Buffers
from limbeck.records import AlignedSignal, Dense, LinearHead, TopK


@dataclass(frozen=True)
class _Plan:
    losses: Sequence[Loss]
    weights: Sequence[float]
    labels_N: Tensor
    teacher: AlignedSignal | None
    columns: slice
    chunk_rows: int
    tolerance: float | None
    buffers: Buffers


def fused_sums(
    head: LinearHead,
    labels_N: Tensor,
    losses: Sequence[Loss],
    weights: Sequence[float],
    teacher: AlignedSignal | None,
    chunk_rows: int = CHUNK_ROWS,
    tolerance: float | None = None,
    buffers: Buffers | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted total of the losses over the N rows, and each loss's own sum.

    The matrix products run in the precision of the head, or of autocast where that is on;
    everything between them in float32 (float64 stays float64).

    Args:
        head: the head's inputs on the supervised rows and its weights.
        labels_N: columns of the shared vocabulary.
        losses: each with `fused = True`.
        weights: of each loss's sum in the total; its `weight` field is not looked at.
        teacher: the signal on the same rows, where a loss needs it.
        chunk_rows: rows of logits in memory at once.
        tolerance: leave the columns that together hold no more than its square of a chunk's
            squared gradient out of the gradient of the first term's weight; None for none.
        buffers: memory that is kept from call to call; None for new memory.

    Returns:
        The total, with a graph that can be gone back through once, and the unweighted sums,
        [number of losses], without a graph.

    Raises:
        UsageError: a loss has no fused form, or does not fit the teacher's signal, or the
            tolerance is not a share.
    """
    if tolerance is not None and not 0 < tolerance < 1:
        raise UsageError(f"tolerance {tolerance:g} is not inside (0, 1)", mend="None is exact")
    for loss in losses:
        if not loss.fused:
            raise UsageError(f"{type(loss).__name__} has no fused form")
    if teacher is not None and len(teacher) != len(labels_N):
        raise UsageError(
            f"the teacher's signal has {len(teacher)} rows, the student {len(labels_N)}"
        )
    first, size = head.first, head.size
    columns = slice(first, first + size)
    buffers = buffers or Buffers()
    plan = _Plan(losses, weights, labels_N, teacher, columns, chunk_rows, tolerance, buffers)
    device = labels_N.device.type
    tensors = [tensor for term in head.terms for tensor in term]
    bias_R = head.bias_R
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        tensors = [tensor.to(dtype) for tensor in tensors]
        bias_R = None if bias_R is None else bias_R.to(dtype)
    with torch.autocast(device, enabled=False):
        total, sums = _HeadAndLosses.apply(plan, torch.is_grad_enabled(), bias_R, *tensors)
    return total, sums


class _HeadAndLosses(torch.autograd.Function):
    """Inputs: the plan, whether gradients are on, the bias, and input and weight of each term."""

    @staticmethod
    def forward(
        ctx: Any, plan: _Plan, grad_enabled: bool, bias_R: Tensor | None, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        inputs, weights = tensors[0::2], [weight[plan.columns] for weight in tensors[1::2]]
        wanted: Sequence[bool] = ctx.needs_input_grad[2:] if grad_enabled else ()
        filtered = plan.tolerance is not None and any(wanted[2:3])
        rows, vocabulary = len(plan.labels_N), weights[0].shape[0]
        gradients = Gradients(plan.columns, rows, bias_R, tensors, wanted, filtered, plan.buffers)
        buffer = plan.buffers.take((min(plan.chunk_rows, rows), vocabulary), inputs[0])
        exact = torch.float64 if buffer.dtype == torch.float64 else torch.float32
        sums = torch.zeros(len(plan.losses), dtype=exact, device=buffer.device)
        for start in range(0, rows, plan.chunk_rows):
            chunk = slice(start, min(start + plan.chunk_rows, rows))
            logits_NV = buffer[: chunk.stop - start]
            torch.mm(inputs[0][chunk], weights[0].T, out=logits_NV)
            for further, weight in zip(inputs[1:], weights[1:], strict=True):
                logits_NV.addmm_(further[chunk], weight.T)
            if bias_R is not None:
                logits_NV += bias_R[plan.columns]
            energy_V = sums.new_zeros(vocabulary) if filtered else None
            sums += _replace_by_gradient(plan, logits_NV, chunk, any(wanted), energy_V)
            kept_K = None
            if energy_V is not None and plan.tolerance is not None:
                kept_K = kept_columns(energy_V, plan.tolerance)
            gradients.add(logits_NV, chunk, kept_K)
        ctx.gradients = gradients.found
        ctx.mark_non_differentiable(sums)
        ctx.set_materialize_grads(False)
        return (sums * sums.new_tensor(plan.weights)).sum(), sums

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *outgoing: Any
    ) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("the fused losses can be gone back through only once")
        # Given away, so that autograd can keep them as they are instead of copying them.
        gradients, ctx.gradients = ctx.gradients, None
        scale: Tensor | None = outgoing[0]
        if scale is None:
            return (None,) * (2 + len(gradients))
        # On a GPU the comparison would cost more than the product: it waits for the device.
        if scale.device.type != "cpu" or scale != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(scale)
        return None, None, *gradients


def _replace_by_gradient(
    plan: _Plan,
    logits_NV: Tensor,
    chunk: slice,
    wants_gradient: bool,
    energy_V: Tensor | None,
) -> Tensor:
    """Each loss's sum over a chunk; the logits become the gradient of their weighted total.

    The squares of the gradient's columns are added to `energy_V`, if there is one.
    """
    vocabulary = logits_NV.shape[-1]
    elements = BLOCK_ELEMENTS.get(logits_NV.device.type, BLOCK_ELEMENTS_ELSEWHERE)
    block_rows = max(1, elements // vocabulary)
    sums: Tensor | None = None
    for start in range(0, len(logits_NV), block_rows):
        own = logits_NV[start : start + block_rows]
        rows = slice(chunk.start + start, chunk.start + start + len(own))
        teacher = None if plan.teacher is None else _rows_of(plan.teacher, rows)
        block = Block(own, plan.labels_N[rows], teacher, wants_gradient)
        values = [
            loss.add_gradient(block, weight).sum()
            for loss, weight in zip(plan.losses, plan.weights, strict=True)
        ]
        if wants_gradient:
            block.write_gradient(energy_V)
        sums = torch.stack(values) if sums is None else sums + torch.stack(values)
    assert sums is not None, "a chunk has rows"
    return sums


def _rows_of(teacher: AlignedSignal, rows: slice) -> AlignedSignal:
    if isinstance(teacher, TopK):
        parts = (teacher.ids_NK[rows], teacher.logp_NK[rows], teacher.log_sums_NT[rows])
        tails = None if teacher.log_tails_NT is None else teacher.log_tails_NT[rows]
        return TopK(*parts, teacher.temperatures, tails)
    return Dense(teacher.logits_NV[rows])
