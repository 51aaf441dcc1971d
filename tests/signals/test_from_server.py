"""What a server tells of its distributions becomes a signal that losses and cache can trust."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from limbeck.errors import TeacherError
from limbeck.losses.functional import divergence_rows
from limbeck.signals.from_server import (
    SMALLEST_TAIL,
    fewer,
    mean_log_probability,
    mean_of_kept,
    retokenised_otherwise,
    top_k_from_rows,
)
from limbeck.signals.top_k import from_logits


def told(logits: torch.Tensor, k: int, chosen: list[int] | None = None) -> list[dict[int, float]]:
    """What a server tells of these logits: the k likeliest, and the chosen token."""
    rows = []
    for n, logp in enumerate(logits.log_softmax(-1)):
        ids = logp.topk(k).indices.tolist()
        extra = [] if chosen is None else [chosen[n]]
        rows.append({i: logp[i].item() for i in reversed([*ids, *extra])})
    return rows


def test_it_is_what_whole_distributions_would_give() -> None:
    torch.manual_seed(0)
    logits = torch.randn(20, 200) * 3
    ours, exact = top_k_from_rows(told(logits, 12), 8), from_logits(logits, 8, (1.0,))
    assert torch.equal(ours.ids_NK, exact.ids_NK)
    torch.testing.assert_close(ours.logp_NK, exact.logp_NK)
    torch.testing.assert_close(ours.log_tails_NT, exact.log_tails_NT, atol=1e-5, rtol=1e-4)
    assert ours.temperatures == (1.0,)
    assert torch.equal(ours.log_sums_NT, torch.zeros(20, 1))


def test_a_chosen_token_beyond_the_likeliest_is_kept_in_the_last_place() -> None:
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0, -4.0], [3.0, 2.0, 1.0, 0.0, -4.0]])
    signal = top_k_from_rows(told(logits, 3, [4, 1]), 3, [4, 1])
    assert signal.ids_NK.tolist() == [[0, 1, 4], [0, 1, 2]]
    p = logits.softmax(-1)
    assert signal.log_tails_NT is not None
    tails = signal.log_tails_NT.exp()[:, 0]
    assert tails[0].item() == pytest.approx((p[0, 2] + p[0, 3]).item(), rel=1e-5)
    assert tails[1].item() == pytest.approx((p[1, 3] + p[1, 4]).item(), rel=1e-5)


def test_with_one_token_the_likeliest_stays_so_that_agreement_can_be_told() -> None:
    assert top_k_from_rows([{5: -3.0, 2: -0.1}], 1, [5]).ids_NK.tolist() == [[2]]


def test_fewer_tokens_are_what_the_server_would_have_told_of_them() -> None:
    torch.manual_seed(0)
    logits = torch.randn(30, 40) * 2
    chosen = torch.randint(40, (30,)).tolist()
    rows = told(logits, 12, chosen)
    for k in (1, 2, 5, 12):
        cut = fewer(top_k_from_rows(rows, 12, chosen), k, chosen)
        asked = top_k_from_rows(rows, k, chosen)
        assert torch.equal(cut.ids_NK, asked.ids_NK)
        torch.testing.assert_close(cut.logp_NK, asked.logp_NK)
        torch.testing.assert_close(cut.log_tails_NT, asked.log_tails_NT, atol=1e-5, rtol=1e-4)


def test_the_mean_of_an_answer_is_known_where_all_its_tokens_are_kept() -> None:
    rows = [{1: -0.5, 2: -1.0, 3: -3.0}, {1: -0.2, 4: -5.0, 2: -2.0}]
    assert mean_of_kept(top_k_from_rows(rows, 2, [3, 4]), [3, 4]) == pytest.approx(-4.0)
    assert mean_of_kept(top_k_from_rows(rows, 2), [3, 4]) is None


def test_ties_are_kept_in_one_order() -> None:
    even = math.log(0.25)
    assert top_k_from_rows([{9: even, 3: even, 7: even}], 2).ids_NK.tolist() == [[3, 7]]
    assert top_k_from_rows([{7: even, 9: even, 3: even}], 2).ids_NK.tolist() == [[3, 7]]


def test_a_certain_server_does_not_rule_out_what_it_does_not_tell() -> None:
    signal = top_k_from_rows([{1: 0.0, 2: -40.0}], 2)
    assert signal.log_tails_NT is not None
    assert signal.log_tails_NT.item() == pytest.approx(math.log(SMALLEST_TAIL))
    student = torch.zeros(1, 50, dtype=torch.float64)
    loss = divergence_rows(student, signal, direction="reverse", temperature=1.0)
    assert loss.item() < 20  # not the hundreds of nats of a token that is ruled out


def test_a_certain_servers_small_tail_is_not_rounded_away() -> None:
    signal = top_k_from_rows([{1: -1e-5, 2: -30.0}], 2)
    assert signal.log_tails_NT is not None
    assert signal.log_tails_NT.exp().item() == pytest.approx(1e-5, rel=1e-4)


def test_the_cache_takes_it(tmp_path: Path) -> None:
    from limbeck.signals.top_k_coding import TopKCoding
    from limbeck.signals.writer import SignalWriter

    torch.manual_seed(0)
    logits = torch.randn(4, 60)
    answer = logits.argmax(-1).tolist()

    writer = SignalWriter(tmp_path, {}, TopKCoding(8, (1.0,)))
    writer.append("a", answer, top_k_from_rows(told(logits, 8, answer), 8, answer))
    assert writer.close()["agreement"] == 1


def test_too_few_and_impossible_numbers_are_refused() -> None:
    for row, words in (
        ({1: -1.0}, "gives 1 log-probabilities a token, not 2"),
        ({1: -1.0, 2: math.nan}, "not made of log-probabilities"),
        ({1: -1.0, 2: 0.5}, "not made of log-probabilities"),
        ({1: -0.1, 2: -0.1}, "sum to 1.81"),
        ({1: -math.inf, 2: -math.inf}, "rules out every token"),
    ):
        with pytest.raises(TeacherError, match=words) as caught:
            top_k_from_rows([{1: -1.0, 2: -1.0}, row], 2)
        assert caught.value.where == "answer token 1"
    with pytest.raises(TeacherError, match="token 9"):
        top_k_from_rows([{1: -1.0, 2: -1.0}], 2, [9])


def test_mean_log_probability_is_over_all_tokens_or_unknown() -> None:
    rows = [{1: -1.0, 2: -2.0}, {3: -4.0}]
    assert mean_log_probability(rows, [2, 3]) == -3.0
    assert mean_log_probability(rows, [2, 5]) is None
    assert mean_log_probability([], []) is None


def test_other_tokens_for_the_same_text_are_told_with_their_place() -> None:
    assert retokenised_otherwise([4, 5, 9], (4, 5, 9)) is None
    assert "from token 1 on" in str(retokenised_otherwise([4, 5, 9], [4, 6, 9]))
    assert "from token 2 on" in str(retokenised_otherwise([4, 5], [4, 5, 9]))
