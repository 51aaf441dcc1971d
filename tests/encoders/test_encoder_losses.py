"""Laws that hold for every loss in encoders/losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import normalize

from limbeck.encoders.losses import EncoderLoss, View
from limbeck.recipe.component import build_component, component_names

LOSSES = component_names("limbeck.encoders.losses")
DISTILLING = [name for name in LOSSES if name not in ("cross_entropy", "combined")]


def loss(kind: str) -> EncoderLoss:
    found: Any = build_component("limbeck.encoders.losses", "kind", kind)
    return found


def view(seed: int) -> View:
    stream = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=stream, dtype=torch.float64)

    return View(
        normalize(draw(4, 6), dim=1),
        draw(4, 3),
        normalize(draw(4, 6), dim=1),
        draw(4, 9).softmax(1),
    )


def leaves(one: View) -> list[torch.Tensor]:
    return [tensor.clone().requires_grad_() for tensor in vars(one).values()]


def same() -> torch.nn.Module:
    return torch.nn.Identity()


LABELS = torch.tensor([0, 2, 1, 0])


@pytest.mark.parametrize("kind", DISTILLING)
def test_nothing_is_lost_and_nothing_moves_where_student_and_teacher_agree(kind: str):
    own = leaves(view(0))
    values = loss(kind)(View(*own), view(0), LABELS, same())
    assert values.shape == (4,)
    torch.testing.assert_close(values, torch.zeros_like(values), atol=1e-9, rtol=0)
    values.sum().backward()
    for tensor in own:
        if tensor.grad is not None:
            along = tensor.grad
            if tensor is own[3]:  # a map sums to 1: only what keeps that is a direction
                along = along - along.mean(1, keepdim=True)
            assert float(along.abs().max()) < 1e-9


@pytest.mark.parametrize("kind", LOSSES)
def test_values_are_not_negative_and_gradients_are_right(kind: str):
    own = leaves(view(1))
    assert bool((loss(kind)(View(*own), view(2), LABELS, same()) >= 0).all())
    assert torch.autograd.gradcheck(
        lambda *tensors: loss(kind)(View(*tensors), view(2), LABELS, same()), own
    )


@pytest.mark.parametrize("kind", LOSSES)
def test_the_order_of_a_batch_does_not_matter(kind: str):
    order = torch.tensor([2, 0, 3, 1])

    def turned(one: View) -> View:
        return View(*(tensor[order] for tensor in vars(one).values()))

    values = loss(kind)(view(1), view(2), LABELS, same())
    moved = loss(kind)(turned(view(1)), turned(view(2)), LABELS[order], same())
    torch.testing.assert_close(moved, values[order])
