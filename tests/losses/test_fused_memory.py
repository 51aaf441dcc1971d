"""Memory that is kept from step to step: used again, but never while somebody looks at it."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor

from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.fused import fused_sums, memory
from limbeck.losses.fused.memory import Buffers
from limbeck.records import LinearHead

LIKE = torch.empty(0, dtype=torch.bfloat16)


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SMALLEST_BYTES", 64)


def test_memory_is_used_again_when_the_last_view_of_it_is_gone() -> None:
    buffers = Buffers()
    first = buffers.take((7, 9), LIKE)
    assert first.shape == (7, 9)
    assert first.dtype == LIKE.dtype
    assert first.is_contiguous()
    address, view = first.data_ptr(), first[2:].detach()
    del first
    assert buffers.take((7, 9), LIKE).data_ptr() != address
    del view
    again = buffers.take((6, 10), LIKE)  # a neighbouring size
    assert again.data_ptr() == address
    assert buffers.take((7, 900), LIKE).data_ptr() != address


def test_used_memory_is_zero_where_zeros_are_asked_for() -> None:
    buffers = Buffers()
    buffers.take((7, 9), LIKE, zeroed=True).fill_(3)
    assert not buffers.take((7, 9), LIKE, zeroed=True).any()


def test_memory_goes_with_the_buffers_but_not_from_under_a_tensor() -> None:
    buffers = Buffers()
    made = buffers.take((7, 9), LIKE).fill_(3)
    del buffers
    gc.collect()
    assert (made == 3).all()
    free = Buffers()
    free.take((7, 9), LIKE)
    (kept,) = (owner for owners in free._free.values() for owner in owners)
    watched = weakref.ref(kept)
    del kept, free
    gc.collect()
    assert watched() is None


@pytest.mark.parametrize("tolerance", [None, 0.05])
@pytest.mark.parametrize("accumulated", [1, 3])
def test_gradients_are_those_of_new_memory_and_stay_while_they_are_held(
    tolerance: float | None, accumulated: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(300, 16, generator=generator) * 2

    def train(buffers: Buffers | None) -> tuple[list[Tensor], set[int]]:
        weight, gradients, addresses = start.clone().requires_grad_(), [], set[int]()
        for step in range(4):
            for piece in range(accumulated):
                own = torch.Generator().manual_seed(step * 10 + piece)
                labels_N = torch.randint(0, 300, (5 + piece,), generator=own)
                hidden_NH = start[labels_N] + torch.randn(5 + piece, 16, generator=own)
                head = LinearHead(((hidden_NH, weight),), None, 0, 300)
                options = {"tolerance": tolerance, "buffers": buffers}
                fused_sums(head, labels_N, [CrossEntropy()], [0.1], None, **options)[0].backward()
            assert weight.grad is not None
            addresses.add(weight.grad.data_ptr())
            gradients.append(weight.grad.clone())
            held = weight.grad if step == 1 else None
            weight.data -= weight.grad
            weight.grad = None
            if held is not None:
                gradients.append(held)
        return gradients, addresses

    (found, addresses), (wanted, _) = train(Buffers()), train(None)
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)
    assert len(addresses) <= 3, "the gradients of some steps lay in the same memory"
