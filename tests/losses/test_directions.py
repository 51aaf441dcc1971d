"""Closed forms of the divergences' slopes: what autograd finds, also where floating point ends."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from limbeck.losses.directions import Direction, value, value_and_slope

every_direction = pytest.mark.parametrize("direction", get_args(Direction))


def fused(
    log_p: Tensor, log_q: Tensor, direction: Direction, beta: float, skew: float
) -> tuple[Tensor, Tensor]:
    """Values, and gradients of the logits from the slopes."""
    p, q = log_p.exp(), log_q.exp()
    values_N, slope = value_and_slope(p, q, lambda: log_p - log_q, direction, beta, skew)
    return values_N, slope - q * slope.sum(-1, keepdim=True)


def differentiated(
    log_p: Tensor, logits: Tensor, direction: Direction, beta: float, skew: float
) -> tuple[Tensor, Tensor]:
    leaf = logits.detach().requires_grad_()
    values_N = value(log_p, leaf.log_softmax(-1), direction, beta, skew)
    (gradient,) = torch.autograd.grad(values_N.sum(), leaf)
    return values_N.detach(), gradient


def logits(spread: float, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    teacher, student = torch.randn(2, 40, 97, generator=generator, dtype=torch.float64) * spread
    return teacher.to(dtype), student.to(dtype)


@every_direction
@pytest.mark.parametrize("share", [1e-6, 0.1, 0.5, 1 - 1e-6])
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0, 300.0])
def test_closed_forms_are_those_of_autograd(
    direction: Direction, share: float, spread: float
) -> None:
    teacher, student = logits(spread, torch.float64)
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    values_N, gradient = fused(log_p, log_q, direction, share, share)
    expected_N, wanted = differentiated(log_p, student, direction, share, share)
    torch.testing.assert_close(values_N, expected_N, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(gradient, wanted, rtol=1e-8, atol=max(1e-13, 1e-16 / share))


@every_direction
@pytest.mark.parametrize("spread", [1.0, 10.0, 100.0])
def test_float32_says_what_float64_says(direction: Direction, spread: float) -> None:
    teacher, student = logits(spread, torch.float32)
    found = fused(teacher.log_softmax(-1), student.log_softmax(-1), direction, 0.3, 0.2)
    exact = [one.double() for one in (teacher, student)]
    wanted = fused(exact[0].log_softmax(-1), exact[1].log_softmax(-1), direction, 0.3, 0.2)
    for ours, theirs in zip(found, wanted, strict=True):
        # Where both are certain of other tokens a bounded divergence has next to no gradient.
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm() + 1e-6


@every_direction
def test_a_small_distance_keeps_its_digits(direction: Direction) -> None:
    """Logits that differ by a hundredth: the value is of second order in that."""
    teacher, noise = logits(1.0, torch.float32)
    student = teacher + 0.01 * noise
    found = fused(teacher.log_softmax(-1), student.log_softmax(-1), direction, 0.5, 0.1)
    exact = [one.double() for one in (teacher, student)]
    wanted = fused(exact[0].log_softmax(-1), exact[1].log_softmax(-1), direction, 0.5, 0.1)
    assert (found[0] - wanted[0]).abs().max() <= 1e-6
    # Total variation's slope jumps at a ratio of 1, where rounding decides.
    tolerance = 1e-2 if direction == "total_variation" else 1e-4
    assert (found[1] - wanted[1]).norm() <= tolerance * wanted[1].norm()


@every_direction
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_masses_that_round_to_nothing_stay_finite_and_one_distribution_has_no_distance(
    direction: Direction, dtype: torch.dtype
) -> None:
    teacher, student = logits(1000.0, dtype)
    teacher[0], student[0] = torch.linspace(0, -200, 97), torch.linspace(-200, 0, 97)
    log_p, log_q = teacher.log_softmax(-1), student.log_softmax(-1)
    assert (log_p.exp() == 0).any()
    for share in (1e-6, 0.5, 1 - 1e-6):
        for found in fused(log_p, log_q, direction, share, share):
            assert found.isfinite().all()
        values_N, gradient = fused(log_p, log_p.clone(), direction, share, share)
        assert not values_N.any()
        assert not gradient.any()
