"""Top-k signals: exact at every stored temperature, honest about what they leave out."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import TeacherError, UsageError
from limbeck.losses.functional import divergence_rows
from limbeck.records import Dense
from limbeck.signals.live import LiveSignal
from limbeck.signals.top_k import collate, from_logits

TEMPERATURES = (0.1, 0.5, 1.0, 2.0, 20.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_kept_probabilities_are_exact_at_every_stored_temperature(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(300, 500) * 4).to(dtype)  # more rows than one chunk
    signal = from_logits(logits, 16, TEMPERATURES)
    assert signal.ids_NK.shape == (300, 16)
    assert signal.logp_NK.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    for at, temperature in enumerate(signal.temperatures):
        p = (logits.double() / temperature).softmax(-1).gather(-1, signal.ids_NK)
        found = (signal.logp_NK / temperature - signal.log_sums_NT[:, at : at + 1]).exp()
        torch.testing.assert_close(found.double(), p, rtol=tolerance, atol=tolerance)


def test_tokens_are_the_most_probable_ones_in_order() -> None:
    logits = torch.tensor([[0.0, 3.0, 1.0, 2.0], [5.0, -torch.inf, 4.0, -torch.inf]])
    signal = from_logits(logits, 3, (1.0,))
    assert signal.ids_NK[0].tolist() == [1, 3, 2]
    assert signal.ids_NK[1, :2].tolist() == [0, 2]
    assert signal.logp_NK[1, 2] == -torch.inf
    assert len(signal) == 2


def test_all_tokens_are_kept_where_k_exceeds_the_vocabulary() -> None:
    assert from_logits(torch.randn(2, 5), 64, (1.0,)).ids_NK.shape == (2, 5)


def test_tail_of_a_certain_teacher_is_not_rounded_away() -> None:
    logits = torch.tensor([[25.0, 0.0, 0.0, 0.0]])
    signal = from_logits(logits, 1, (1.0, 2.0))
    assert signal.logp_NK.item() == pytest.approx(-3 * math.exp(-25), rel=1e-6)
    hot = signal.logp_NK.item() / 2 - signal.log_sums_NT[0, 1].item()
    assert hot == pytest.approx(-3 * math.exp(-12.5), rel=1e-5)


def test_no_temperature_no_token_and_no_number_are_refused() -> None:
    logits = torch.randn(2, 5)
    for k, temperatures in ((0, (1.0,)), (3, ()), (3, (1.0, 0.0))):
        with pytest.raises(UsageError):
            from_logits(logits, k, temperatures)
    for bad in (torch.nan, torch.inf):
        with pytest.raises(TeacherError, match="not finite"):
            from_logits(torch.tensor([[0.0, bad, 1.0]]), 2, (1.0,))
    with pytest.raises(TeacherError, match="not finite"):
        from_logits(torch.full((1, 3), -torch.inf), 2, (1.0,))


def test_collated_rows_follow_one_another() -> None:
    logits = torch.randn(7, 9)
    whole = from_logits(logits, 4, (1.0, 2.0))
    joined = collate([from_logits(part, 4, (1.0, 2.0)) for part in logits.split([2, 0, 5])])
    assert joined.temperatures == whole.temperatures
    for name in ("ids_NK", "logp_NK", "log_sums_NT"):
        torch.testing.assert_close(getattr(joined, name), getattr(whole, name))


def test_signals_that_differ_in_k_or_temperature_are_not_collated() -> None:
    logits = torch.randn(2, 9)
    one = from_logits(logits, 4, (1.0,))
    for other in (from_logits(logits, 3, (1.0,)), from_logits(logits, 4, (2.0,))):
        with pytest.raises(UsageError, match="do not go together"):
            collate([one, other])


def test_live_signal_is_the_teachers_logits_in_the_order_of_the_answers() -> None:
    table = {"a": torch.randn(2, 5), "b": torch.randn(3, 5)}
    teacher = torch.nn.Linear(5, 5)

    def signal_of(ids: object, answers: object) -> Dense:
        assert (ids, answers) == (["b", "a"], [[1, 2, 3], [4, 5]])
        assert not torch.is_grad_enabled()
        return Dense(teacher(torch.cat([table["b"], table["a"]])))

    signal = LiveSignal(signal_of).signal(["b", "a"], [[1, 2, 3], [4, 5]])
    assert isinstance(signal, Dense)
    assert not signal.logits_NV.requires_grad
    torch.testing.assert_close(signal.logits_NV[3:], teacher(table["a"]))


def test_live_signal_computed_in_inference_mode_can_be_trained_on() -> None:
    with torch.inference_mode():
        logits = torch.randn(2, 5)
    signal = LiveSignal(lambda ids, answers: Dense(logits)).signal(["a"], [[1, 2]])
    student = torch.randn(2, 5, requires_grad=True)
    divergence_rows(student, signal).sum().backward()
    assert student.grad is not None


def test_live_signal_with_one_row_less_than_the_answer_is_refused() -> None:
    with pytest.raises(TeacherError, match=r"a, b: .*4 rows for 5 answer tokens"):
        LiveSignal(lambda ids, answers: Dense(torch.randn(4, 5))).signal(
            ["a", "b"], [[1, 2, 3], [4, 5]]
        )


def test_tails_are_summed_from_their_own_columns_at_every_temperature() -> None:
    torch.manual_seed(4)
    logits = torch.cat([torch.randn(20, 50) * 4, torch.eye(50)[:3] * 60])
    signal = from_logits(logits, 5, TEMPERATURES)
    assert signal.log_tails_NT is not None
    rest = logits.double().scatter(-1, signal.ids_NK, -torch.inf)
    for at, temperature in enumerate(TEMPERATURES):
        whole = (logits.double() / temperature).logsumexp(-1)
        expected = (rest / temperature).logsumexp(-1) - whole
        found = signal.log_tails_NT[:, at].double()
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    everything = from_logits(logits, 50, (1.0,)).log_tails_NT
    assert everything is not None
    assert everything.eq(-torch.inf).all()
    joined = collate([from_logits(part, 5, TEMPERATURES) for part in logits.split(9)])
    torch.testing.assert_close(joined.log_tails_NT, signal.log_tails_NT)
