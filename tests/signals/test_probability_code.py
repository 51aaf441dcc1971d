"""Eight bits a log-probability: bounded error, an exact tail, and an argmax that survives."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from limbeck.losses.functional import divergence_rows
from limbeck.records import Dense, TopK
from limbeck.signals import probability_code
from limbeck.signals.top_k import from_logits

TEMPERATURES = (1.0, 0.5, 2.0, 20.0)


def coded(logits_NV: torch.Tensor, k: int) -> tuple[TopK, TopK, NDArray[Any]]:
    """A signal, what the coding gives back of it, and the bound of each row's distances."""
    signal = from_logits(logits_NV, k, TEMPERATURES)
    assert signal.log_tails_NT is not None
    codes, ranges, tails = probability_code.encode(
        signal.logp_NK.numpy(), signal.log_tails_NT.numpy(), TEMPERATURES
    )
    assert (codes.dtype, ranges.dtype, tails.dtype) == (np.uint8, np.uint8, np.float16)
    logp, log_sums = probability_code.decode(codes, ranges, tails, TEMPERATURES)
    given_back = TopK(
        signal.ids_NK,
        torch.from_numpy(logp),
        torch.from_numpy(log_sums),
        TEMPERATURES,
        torch.from_numpy(tails.astype(np.float32)),
    )
    return signal, given_back, probability_code.largest_error(ranges)


def language_like(rows: int, columns: int) -> torch.Tensor:
    """Rows from certain to undecided, with the tail of a word distribution."""
    torch.manual_seed(0)
    sharpness = torch.exp(torch.randn(rows, 1) * 0.45 + 1.75)
    return torch.randn(rows, columns) * sharpness - 0.5 * torch.arange(1, columns + 1).log()


@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0, 30.0])
def test_distances_below_the_best_token_are_within_the_bound(scale: float) -> None:
    torch.manual_seed(0)
    signal, found, bound = coded(torch.randn(200, 700) * scale, 48)

    def distance(logp: torch.Tensor) -> torch.Tensor:
        return logp.amax(-1, keepdim=True) - logp

    error = (distance(found.logp_NK) - distance(signal.logp_NK)).abs().amax(-1).numpy()
    assert (error <= bound * 1.001 + 1e-5).all()
    # An even grid of 255 steps has half a step of R / 508; ours is wider only far from the best.
    assert (bound <= distance(signal.logp_NK).amax(-1).numpy() / 90 + 1e-4).all()


@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0, 30.0, 300.0])
@pytest.mark.parametrize("k", [1, 8, 64])
def test_kept_mass_and_tail_are_one_at_every_temperature(scale: float, k: int) -> None:
    torch.manual_seed(1)
    signal, found, _ = coded(torch.randn(100, 700) * scale, k)
    assert found.log_tails_NT is not None
    assert (found.log_tails_NT <= 0).all()
    for at, temperature in enumerate(TEMPERATURES):
        log_p = found.logp_NK.double() / temperature - found.log_sums_NT[:, at : at + 1].double()
        kept, tail = log_p.exp().sum(-1), found.log_tails_NT[:, at].double().exp()
        rounding = 3e-7 * (1 + found.log_sums_NT[:, at].abs().double() + found.logp_NK.abs().amax())
        assert ((kept + tail - 1).abs() <= rounding).all()
        exact = signal.log_tails_NT[:, at]  # type: ignore[index]
        seen = exact > -60000
        torch.testing.assert_close(
            found.log_tails_NT[seen, at], exact[seen], rtol=2**-11 + 1e-6, atol=1e-7
        )


def test_coding_adds_less_than_the_promised_divergence() -> None:
    """2e-5 nats at T = 1, in the mean, against the same tokens and tail uncoded."""
    signal, found, _ = coded(language_like(400, 20_000), 64)
    for at, temperature in enumerate(TEMPERATURES):
        log_p = signal.logp_NK.double() / temperature - signal.log_sums_NT[:, at : at + 1]
        log_q = found.logp_NK.double() / temperature - found.log_sums_NT[:, at : at + 1]
        tail_p, tail_q = (s.log_tails_NT[:, at].double() for s in (signal, found))  # type: ignore[index]
        kl = (log_p.exp() * (log_p - log_q)).sum(-1) + tail_p.exp() * (tail_p - tail_q)
        assert -1e-7 < kl.mean().item() < 2e-5
        assert kl.max().item() < 2e-4


def test_the_argmax_and_its_exact_ties_survive_and_nothing_joins_them() -> None:
    logits = torch.tensor(
        [[5.0, 5.0, 4.9999, 0.0, -9.0], [0.0, 1e-6, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0, 2.0]]
    )
    for k in (3, 5):
        signal, found, _ = coded(logits, k)
        before, after = (s.logp_NK == s.logp_NK.amax(-1, keepdim=True) for s in (signal, found))
        assert torch.equal(before, after)


def test_ruled_out_and_hopeless_tokens_spoil_nothing() -> None:
    logits = torch.tensor([[3.0, 1.0, -torch.inf, -1e4], [0.0, *[-torch.inf] * 3]])
    signal, found, _ = coded(logits, 4)
    ruled_out = signal.logp_NK == -torch.inf
    assert torch.equal(found.logp_NK == -torch.inf, ruled_out)
    assert found.logp_NK[0, 0].item() == pytest.approx(signal.logp_NK[0, 0].item(), abs=0.01)
    assert found.logp_NK[1, 0].item() == 0
    assert (found.logp_NK[0, 2] / 20 - found.log_sums_NT[0, 3]).item() < -60


def test_a_very_certain_teacher_keeps_its_tail_under_reverse_divergence() -> None:
    teacher = torch.tensor([[40.0, *[0.0] * 999]])
    student = torch.tensor([[8.0, *[0.0] * 999]])
    signal, found, _ = coded(teacher, 4)
    exact = divergence_rows(student.double(), Dense(teacher.double()), "reverse").item()
    for sparse in (signal, found):
        assert divergence_rows(student, sparse, "reverse").item() == pytest.approx(exact, rel=2e-3)
    without = TopK(signal.ids_NK, signal.logp_NK, signal.log_sums_NT, TEMPERATURES)
    assert divergence_rows(student, without, "reverse").item() < 0.6 * exact, "what tails are for"


@pytest.mark.parametrize("direction", ["forward", "reverse", "jsd", "total_variation"])
def test_all_tokens_coded_give_the_dense_divergence_within_the_coding_error(
    direction: Any,
) -> None:
    torch.manual_seed(2)
    teacher, student = torch.randn(50, 120) * 3, torch.randn(50, 120) * 2
    _, found, _ = coded(teacher, 120)
    for temperature in TEMPERATURES:
        sparse, dense = (
            divergence_rows(student, signal, direction, temperature).mean().item()
            for signal in (found, Dense(teacher))
        )
        assert sparse == pytest.approx(dense, rel=3e-3)
