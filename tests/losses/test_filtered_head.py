"""The filter of the head's weight gradient: within its bound, and nothing else changes by a bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.errors import UsageError
from limbeck.losses import Loss
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.divergence import Divergence
from limbeck.losses.fused import columns as columns_module
from limbeck.losses.fused import fused_sums
from limbeck.losses.fused.columns import kept_columns
from limbeck.records import Dense, LinearHead, StudentView, TeacherSignal
from limbeck.signals.top_k import from_logits

ROWS, WIDTH, VOCABULARY, FIRST, PADDED = 48, 24, 900, 3, 910
SHARED = slice(FIRST, FIRST + VOCABULARY)
WEIGHTS = [0.3, 0.7]
DISTRIBUTIONS = ("peaked", "zipf", "half flat", "flat", "aligned rows")
every_distribution = pytest.mark.parametrize("distribution", DISTRIBUTIONS)


def case(distribution: str, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Any, ...]:
    """Head's inputs, weight and labels; the teacher's logits are another hidden state's."""
    generator = torch.Generator().manual_seed(seed)
    weight_RH = torch.randn(PADDED, WIDTH, generator=generator)
    likely = torch.randint(FIRST, FIRST + 40, (ROWS, 2), generator=generator)
    towards = weight_RH[likely].mean(1)
    noise = torch.randn(2, ROWS, WIDTH, generator=generator)
    if distribution == "aligned rows":  # |h| is then the worst case of the bound
        towards = towards[:1].expand(ROWS, -1)
    strength = {"flat": 0.0, "zipf": 0.2}.get(distribution, 1.2)
    if distribution == "zipf":
        weight_RH[:, -1] = -2 * (torch.randperm(PADDED, generator=generator) + 1).log()
        towards[:, -1] = 4
    both = towards * strength + noise * 0.05
    if distribution == "half flat":
        both[:, ::2] = noise[:, ::2] * 0.02
    hidden_NH, teacher_NH = both
    teacher_NV = (teacher_NH @ weight_RH.T)[:, SHARED]
    labels_N = (teacher_NV).argmax(-1)
    return hidden_NH.to(dtype), weight_RH.to(dtype), labels_N, teacher_NV


def gradients(
    inputs: tuple[Any, ...],
    tolerance: float | None,
    losses: list[Loss],
    teacher: TeacherSignal | None,
    chunk_rows: int = 256,
) -> tuple[Tensor, ...]:
    hidden_NH, weight_RH, labels_N, _ = inputs
    leaves = [hidden_NH.clone().requires_grad_(), weight_RH.clone().requires_grad_()]
    head = LinearHead(((leaves[0], leaves[1]),), None, FIRST, VOCABULARY)
    weights = WEIGHTS[-len(losses) :]
    total, sums = fused_sums(head, labels_N, losses, weights, teacher, chunk_rows, tolerance)
    return total.detach(), sums, *torch.autograd.grad(total, leaves)


def bound_of(inputs: tuple[Any, ...], losses: list[Loss], teacher: Any) -> tuple[float, float]:
    """|h|_2 |G|_F and |h|_F |G|_F, with G from the plain losses."""
    hidden_NH, weight_RH, labels_N, _ = inputs
    logits_NV = (hidden_NH @ weight_RH.T)[:, SHARED].float().requires_grad_()
    view = StudentView(labels_N, logits_NV, lambda hidden: hidden)
    total = sum(w * one(view, teacher).sum for w, one in zip(WEIGHTS, losses, strict=True))
    (gradient_NV,) = torch.autograd.grad(total, [logits_NV])  # type: ignore[list-item]
    hidden = hidden_NH.float()
    size = gradient_NV.norm().item()
    return torch.linalg.matrix_norm(hidden, 2).item() * size, hidden.norm().item() * size


@every_distribution
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tolerance", [0.003, 0.03, 0.3])
def test_the_error_stays_within_its_bound_and_all_else_is_the_same(
    distribution: str, form: str, dtype: torch.dtype, tolerance: float
) -> None:
    inputs = case(distribution, dtype)
    teacher = Dense(inputs[3]) if form == "dense" else from_logits(inputs[3], 8, [1.0, 2.0])
    losses: list[Loss] = [CrossEntropy(), Divergence(temperature=2.0)]
    spectral, frobenius = bound_of(inputs, losses, teacher)
    for chunk_rows, bound in ((256, spectral), (7, frobenius)):
        exact = gradients(inputs, None, losses, teacher, chunk_rows)
        found = gradients(inputs, tolerance, losses, teacher, chunk_rows)
        for one, other in zip(found[:-1], exact[:-1], strict=True):
            assert torch.equal(one, other)
        left_out = exact[-1].float() - found[-1].float()
        rounding = 1e-6 if dtype == torch.float32 else 2**-8
        assert left_out.norm() <= tolerance * bound + rounding * exact[-1].float().norm()


@every_distribution
def test_rows_are_either_right_or_zero(distribution: str) -> None:
    inputs = case(distribution)
    losses: list[Loss] = [Divergence()]
    teacher = Dense(inputs[3])
    *_, exact = gradients(inputs, None, losses, teacher)
    *_, found = gradients(inputs, 0.05, losses, teacher)
    kept = found.any(-1)
    torch.testing.assert_close(found[kept], exact[kept], rtol=1e-5, atol=1e-8)
    assert not found[:FIRST].any()
    assert not found[SHARED.stop :].any()
    if distribution == "flat":
        assert torch.equal(found, exact), "nothing is worth leaving out"
    if distribution in ("peaked", "aligned rows"):
        assert 0 < kept.sum() < VOCABULARY / 5, "the filter does something"


def test_only_the_first_weight_is_filtered() -> None:
    hidden_NH, weight_RH, labels_N, teacher_NV = case("peaked")
    generator = torch.Generator().manual_seed(2)
    low_NH = torch.randn(ROWS, 4, generator=generator) * 0.1
    up_RH, bias_R = torch.randn(PADDED, 4, generator=generator), torch.zeros(PADDED)
    found: list[tuple[Tensor, ...]] = []
    for tolerance in (None, 0.05):
        tensors = hidden_NH, weight_RH, low_NH, up_RH, bias_R
        leaves = [tensor.clone().requires_grad_() for tensor in tensors]
        terms = ((leaves[0], leaves[1]), (leaves[2], leaves[3]))
        head = LinearHead(terms, leaves[4], FIRST, VOCABULARY)
        losses: list[Loss] = [CrossEntropy(), Divergence()]
        total, _ = fused_sums(
            head, labels_N, losses, WEIGHTS, Dense(teacher_NV), chunk_rows=20, tolerance=tolerance
        )
        found.append(torch.autograd.grad(total, leaves))
    for number, (exact, filtered) in enumerate(zip(*found, strict=True)):
        assert torch.equal(exact, filtered) == (number != 1)


def test_accumulated_scaled_and_tied_gradients_are_the_sum_of_filtered_ones() -> None:
    _, weight_RH, _, teacher_NV = case("peaked")
    tokens_N = torch.arange(ROWS) % PADDED
    labels_N = teacher_NV.argmax(-1)
    losses: list[Loss] = [CrossEntropy()]
    pieces = (slice(0, 11), slice(11, 12), slice(12, ROWS))

    def total(weight: Tensor, embedding: Tensor, rows: slice) -> Tensor:
        head = LinearHead(((embedding[tokens_N[rows]] * 2, weight),), None, FIRST, VOCABULARY)
        return fused_sums(head, labels_N[rows], losses, [0.3], None, tolerance=0.05)[0]

    tied = weight_RH.clone().requires_grad_()
    for rows in pieces:
        (total(tied, tied, rows) * 2**10).backward()
    wanted = torch.zeros_like(weight_RH)
    for rows in pieces:
        apart = [weight_RH.clone().requires_grad_() for _ in range(2)]
        wanted += sum(torch.autograd.grad(total(apart[0], apart[1], rows), apart))
    assert tied.grad is not None
    assert (tied.grad / 2**10 - wanted).norm() <= 1e-6 * wanted.norm()


def test_distributed_training_sees_the_filtered_gradient(tmp_path: Path) -> None:
    hidden_NH, weight_RH, labels_N, _ = case("peaked")

    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(weight_RH.clone())

        def forward(self) -> Tensor:
            head = LinearHead(((hidden_NH, self.weight),), None, FIRST, VOCABULARY)
            return fused_sums(head, labels_N, [CrossEntropy()], [0.3], None, tolerance=0.05)[0]

    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/ranks", rank=0, world_size=1
    )
    try:
        alone, wrapped = Head(), torch.nn.parallel.DistributedDataParallel(Head())
        for _ in range(2):  # the second accumulates into a gradient that is a view of a bucket
            alone().backward()
            wrapped().backward()
    finally:
        torch.distributed.destroy_process_group()
    found, wanted = wrapped.module.weight.grad, alone.weight.grad
    assert found is not None
    assert wanted is not None
    assert torch.equal(found, wanted)
    assert 0 < wanted.any(-1).sum() < VOCABULARY / 5


@pytest.mark.parametrize("tolerance", [0.003, 0.1, 0.3])
@pytest.mark.parametrize("power", [0.0, 3.0, 12.0])
def test_as_few_columns_are_kept_as_the_tolerance_allows(tolerance: float, power: float) -> None:
    generator = torch.Generator().manual_seed(3)
    energy_V = torch.rand(5000, generator=generator) ** power * 1e-9
    kept_K = kept_columns(energy_V, tolerance)
    ascending = energy_V.double().sort().values
    allowed = int((ascending.cumsum(0) <= tolerance**2 * ascending.sum()).sum())
    fewest = len(energy_V) - allowed
    if kept_K is None:
        assert fewest > columns_module.SPARSE * len(energy_V) * 0.9
        return
    left_out = energy_V.double().sum() - energy_V[kept_K].double().sum()
    assert left_out <= tolerance**2 * energy_V.double().sum()
    assert fewest <= len(kept_K) <= fewest * 1.1 + 1
    assert kept_K.tolist() == sorted(set(kept_K.tolist()))


@pytest.mark.parametrize("odd", [torch.nan, torch.inf, 0.0])
def test_a_gradient_that_is_no_number_reaches_whoever_looks_for_it(odd: float) -> None:
    energy_V = torch.zeros(100)
    energy_V[3] = odd
    assert kept_columns(energy_V, 0.003) is None
    hidden_NH, weight_RH, labels_N, _ = case("peaked")
    hidden_NH[5] = odd
    found = gradients((hidden_NH, weight_RH, labels_N, None), 0.003, [CrossEntropy()], None)
    assert found[-1].isfinite().all() == (odd == 0)


@pytest.mark.parametrize("tolerance", [0.0, 1.0, -0.1])
def test_a_tolerance_that_is_no_share_is_refused(tolerance: float) -> None:
    with pytest.raises(UsageError, match="not inside"):
        gradients(case("flat"), tolerance, [CrossEntropy()], None)
