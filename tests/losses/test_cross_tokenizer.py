"""Universal logit distillation, computed by hand and by a slow, plain second implementation."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.errors import UsageError
from limbeck.losses.cross_tokenizer import CrossTokenizer
from limbeck.losses.divergence import Divergence
from limbeck.records import AnswerSize, Dense, LossTerm, StudentView, TopK, Unaligned
from limbeck.signals.top_k import from_logits


def logits(*rows: tuple[float, ...]) -> torch.Tensor:
    """Logits of these probabilities, each row off by a constant of its own."""
    shift = torch.arange(len(rows), dtype=torch.float64)[:, None]
    return torch.tensor(rows, dtype=torch.float64).log() + shift


def view(student_NV: torch.Tensor, tokens: list[int]) -> StudentView:
    found = StudentView(torch.tensor(tokens), student_NV, lambda hidden: hidden)
    found.__dict__["logits_NV"] = student_NV  # keeps float64, where the view would round
    return found


def unaligned(
    signal: Dense | TopK, tokens: list[int], teacher: list[int], student: list[int], vocabulary: int
) -> Unaligned:
    spans = [torch.tensor(spans) for spans in (teacher, student)]
    return Unaligned(signal, torch.tensor(tokens), *spans, max(teacher) + 1, vocabulary)


def test_three_tokens_against_two_by_hand() -> None:
    teacher = Dense(logits((0.2, 0.5, 0.3)))
    student = view(logits((0.4, 0.6)), [1])
    term = CrossTokenizer()(student, unaligned(teacher, [2], [0], [0], 3))
    # .5 .3 .2 against .6 .4 0
    assert term.sum.item() == pytest.approx(0.1 + 0.1 + 0.2)
    assert term.count == 1


def test_a_word_of_two_tokens_against_one_by_hand() -> None:
    teacher = Dense(logits((0.7, 0.2, 0.1)))
    student = view(logits((0.6, 0.3, 0.1), (0.2, 0.5, 0.3)), [0, 1])
    term = CrossTokenizer()(student, unaligned(teacher, [0], [0], [0, 0], 3))
    # whole span .6 * .5, begun and left .6 * .5, other tokens .3 and .1
    assert term.sum.item() == pytest.approx(abs(0.7 - 0.3) + abs(0.2 - 0.3) + abs(0.1 - 0.3) + 0.1)
    assert term.count == 1


def test_two_kept_tokens_of_four_by_hand() -> None:
    signal = from_logits(logits((0.4, 0.1, 0.3, 0.2)), 2, [1.0])
    student = view(logits((0.1, 0.7, 0.2)), [1])
    term = CrossTokenizer()(student, unaligned(signal, [0], [0], [0], 4))
    # .4 .3 and a rest of .3 against .7 .2 and a rest of .1
    assert term.sum.item() == pytest.approx(0.3 + 0.1 + 0.2)


def test_the_temperature_divides_both_models_logits_and_scales_once() -> None:
    teacher = Dense(logits((0.2, 0.5, 0.3)))
    student = view(logits((0.4, 0.6)), [1])
    pair = unaligned(teacher, [2], [0], [0], 3)
    p = sorted((x**0.5 for x in (0.2, 0.5, 0.3)), reverse=True)
    q = sorted((x**0.5 for x in (0.4, 0.6)), reverse=True)
    bare = sum(abs(a / sum(p) - b / sum(q)) for a, b in zip(p, [*q, 0], strict=True))
    loss = CrossTokenizer(temperature=2, scale_by_temperature_squared=False)
    assert loss(student, pair).sum.item() == pytest.approx(bare)
    assert CrossTokenizer(temperature=2)(student, pair).sum.item() == pytest.approx(4 * bare)


def plain_merged(rows: list[list[float]], tokens: list[int]) -> list[float]:
    """The distribution of one span, in plain Python."""
    later = math.prod(row[token] for row, token in zip(rows[1:], tokens[1:], strict=True))
    entries = [p for token, p in enumerate(rows[0]) if token != tokens[0]]
    begun = rows[0][tokens[0]]
    return sorted([*entries, begun * later, begun * (1 - later)], reverse=True)


def random_pair(seed: int, own: int = 7) -> tuple[StudentView, torch.Tensor, Unaligned]:
    """Four spans with one to three tokens of either side; the teacher knows 11 tokens."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int, count: int) -> list[int]:
        return torch.randint(0, high, (count,), generator=generator).tolist()

    sides = []
    for size in (11, own):
        spans = [n for n, extra in enumerate(draw(3, 4)) for _ in range(1 + extra)]
        drawn = torch.randn(len(spans), size, generator=generator, dtype=torch.float64) * 2
        sides.append((drawn, draw(size, len(spans)), spans))
    (teacher_MV, answer, teacher_spans), (student_NV, tokens, student_spans) = sides
    pair = unaligned(Dense(teacher_MV), answer, teacher_spans, student_spans, 11)
    return view(student_NV, tokens), teacher_MV, pair


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_sum_over_spans_is_that_of_a_plain_implementation(temperature: float) -> None:
    for seed in range(50):
        student, teacher_MV, pair = random_pair(seed)
        loss = CrossTokenizer(temperature=temperature, scale_by_temperature_squared=False)
        expected = 0.0
        for span in range(pair.spans):
            vectors = []
            for rows, tokens, spans in (
                (teacher_MV, pair.answer_ids_M, pair.teacher_spans_M),
                (student.logits_NV, student.labels_N, pair.student_spans_N),
            ):
                own = spans == span
                p = (rows[own] / temperature).softmax(-1).tolist()
                vectors.append(plain_merged(p, tokens[own].tolist()))
            longest = max(map(len, vectors))
            ours, theirs = (v + [0.0] * (longest - len(v)) for v in vectors)
            assert sum(ours) == pytest.approx(1)
            expected += sum(abs(a - b) for a, b in zip(ours, theirs, strict=True))
        term = loss(student, pair)
        assert term.sum.item() == pytest.approx(expected, rel=1e-10)
        assert term.count == pair.spans == 4
        assert expected <= 2 * pair.spans


def with_top_k(pair: Unaligned, teacher_MV: torch.Tensor, k: int) -> Unaligned:
    signal = from_logits(teacher_MV, k, [1.0])
    return unaligned(
        signal,
        pair.answer_ids_M.tolist(),
        pair.teacher_spans_M.tolist(),
        pair.student_spans_N.tolist(),
        11,
    )


@pytest.mark.parametrize("own", [7, 11, 15])
def test_a_sparse_teacher_stays_below_the_dense_one_and_reaches_it_with_all_tokens(
    own: int,
) -> None:
    below = 0
    for seed in range(100):
        student, teacher_MV, pair = random_pair(seed, own)
        dense = CrossTokenizer()(student, pair).sum.item()
        found = [
            CrossTokenizer()(student, with_top_k(pair, teacher_MV, k)).sum.item()
            for k in range(1, 12)
        ]
        assert found == pytest.approx(sorted(found), abs=1e-9), "more tokens say no less"
        assert found[-1] == pytest.approx(dense, abs=1e-9)
        assert found[0] <= dense + 1e-9
        below += found[0] < dense - 1e-3
    assert below > 50, "one token does not say all"


def test_a_sparse_teacher_claims_nothing_about_a_token_that_it_did_not_keep() -> None:
    # The later token is not among the two kept: the span's entries are somewhere below .6.
    first, later = (0.6, 0.25, 0.1, 0.05), (0.5, 0.3, 0.1, 0.1)
    signal = from_logits(logits(first, later), 2, [1.0])
    student = view(logits((0.5, 0.3, 0.2)), [0])
    term = CrossTokenizer()(student, unaligned(signal, [0, 3], [0, 0], [0], 4))
    # Nothing is known to be the largest, so all the mass is compared with all the mass.
    assert term.sum.item() == pytest.approx(0.0, abs=1e-9)
    other = unaligned(signal, [1, 3], [0, 0], [0], 4)
    # Here .6 is known to be the largest: .6 and .4 against .5 and .5.
    assert CrossTokenizer()(student, other).sum.item() == pytest.approx(0.2)


def test_rounding_in_a_cache_that_keeps_all_tokens_makes_no_rest() -> None:
    exact = from_logits(logits((0.5, 0.3, 0.2)), 3, [1.0])
    rounded = TopK(exact.ids_NK, exact.logp_NK - 0.01, exact.log_sums_NT, (1.0,))
    student = view(logits((0.5, 0.3, 0.2)), [0])
    term = CrossTokenizer()(student, unaligned(rounded, [0], [0], [0], 3))
    assert term.sum.item() == pytest.approx(1 - math.exp(-0.01))


def test_counts_spans_where_other_losses_count_tokens() -> None:
    size = AnswerSize(tokens=9, spans=5)
    assert CrossTokenizer().count_of(size) == 5
    assert Divergence().count_of(size) == 9


def test_a_divergence_refuses_rows_of_another_tokenizer() -> None:
    student, _, pair = random_pair(0)
    with pytest.raises(UsageError, match="kind: cross_tokenizer"):
        Divergence()(student, pair)


def test_rows_that_do_not_fit_are_refused() -> None:
    student, teacher_MV, _ = random_pair(0)
    with pytest.raises(UsageError, match="rows"):
        CrossTokenizer()(student, Dense(teacher_MV[:1]))
    with pytest.raises(UsageError, match="rows"):
        CrossTokenizer()(
            view(student.logits_NV[:1], [0]), unaligned(Dense(teacher_MV[:1]), [0], [0], [0, 0], 11)
        )


def test_the_step_follows_the_sum_down() -> None:
    student, _, pair = random_pair(3)
    leaf = student.logits_NV.clone().requires_grad_()
    values: list[float] = []
    for _ in range(200):
        term: LossTerm = CrossTokenizer()(view(leaf, student.labels_N.tolist()), pair)
        values.append(term.sum.item())
        (gradient,) = torch.autograd.grad(term.sum, leaf)
        leaf = (leaf - 0.1 * gradient).detach().requires_grad_()
    assert values[-1] < 0.7 * values[0]
