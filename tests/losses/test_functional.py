"""The public functions: numbers worked out by hand, independent formulas, shapes, refusals."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.errors import UsageError
from limbeck.losses.functional import (
    cross_entropy,
    cross_entropy_rows,
    divergence,
    divergence_rows,
)
from limbeck.records import Dense, TopK
from limbeck.signals.top_k import from_logits

DIRECTIONS = ("forward", "reverse", "jsd", "skew_forward", "skew_reverse", "total_variation")

# p = (1/2, 1/4, 1/4) of the teacher, q = (1/4, 1/4, 1/2) of the student. By hand:
#   KL(p||q) = 1/2 ln 2 + 0 - 1/4 ln 2 = 1/4 ln 2, and the same in the other direction.
#   m = (3/8, 1/4, 3/8): KL(p||m) = 1/2 ln(4/3) + 1/4 ln(2/3) = KL(q||m)
#   skew 0.1: s = 0.1 p + 0.9 q = (0.275, 0.25, 0.475)
#   TV = 1/2 (1/4 + 1/4)
TEACHER = (0.5, 0.25, 0.25)
STUDENT = (0.25, 0.25, 0.5)
JSD = 0.5 * math.log(4 / 3) + 0.25 * math.log(2 / 3)
SKEW = 0.5 * math.log(0.5 / 0.275) + 0.25 * math.log(0.25 / 0.475)
BY_HAND = {
    "forward": 0.25 * math.log(2),
    "reverse": 0.25 * math.log(2),
    "jsd": JSD,
    "skew_forward": SKEW,
    "skew_reverse": SKEW,
    "total_variation": 0.25,
}


def logits_of(probabilities: tuple[float, ...], temperature: float = 1.0) -> Tensor:
    return (torch.tensor([probabilities], dtype=torch.float64).log() * temperature) + 3.0


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_three_token_example_has_the_value_worked_out_by_hand(
    direction: Any, temperature: float
) -> None:
    student, teacher = logits_of(STUDENT, temperature), logits_of(TEACHER, temperature)
    found = divergence(student, teacher, torch.tensor([0]), direction, temperature)
    assert found.item() == pytest.approx(BY_HAND[direction] * temperature**2, abs=1e-12)


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_three_token_example_with_one_kept_token_and_a_tail(direction: Any) -> None:
    # Buckets: p = (1/2, 1/2), q = (1/4, 3/4).
    expected = {
        "forward": 0.5 * math.log(2) + 0.5 * math.log(2 / 3),
        "reverse": 0.25 * math.log(1 / 2) + 0.75 * math.log(3 / 2),
        "jsd": 0.5 * (0.5 * math.log(0.5 / 0.375) + 0.5 * math.log(0.5 / 0.625))
        + 0.5 * (0.25 * math.log(0.25 / 0.375) + 0.75 * math.log(0.75 / 0.625)),
        "skew_forward": 0.5 * math.log(0.5 / 0.275) + 0.5 * math.log(0.5 / 0.725),
        "skew_reverse": 0.25 * math.log(0.25 / 0.475) + 0.75 * math.log(0.75 / 0.525),
        "total_variation": 0.25,
    }
    signal = from_logits(logits_of(TEACHER), 1, (1.0,))
    found = divergence(logits_of(STUDENT), signal, torch.tensor([0]), direction)
    assert found.item() == pytest.approx(expected[direction], abs=1e-12)


def independent(p: Tensor, q: Tensor, direction: str, beta: float, skew: float) -> Tensor:
    def kl(a: Tensor, b: Tensor) -> Tensor:
        return torch.nn.functional.kl_div(b.log(), a, reduction="sum")

    mixture = beta * p + (1 - beta) * q
    return {
        "forward": lambda: kl(p, q),
        "reverse": lambda: kl(q, p),
        "jsd": lambda: beta * kl(p, mixture) + (1 - beta) * kl(q, mixture),
        "skew_forward": lambda: kl(p, skew * p + (1 - skew) * q),
        "skew_reverse": lambda: kl(q, (1 - skew) * p + skew * q),
        "total_variation": lambda: torch.nn.functional.l1_loss(p, q, reduction="sum") / 2,
    }[direction]()


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(("beta", "skew"), [(0.5, 0.1), (0.1, 0.5), (0.9, 0.9)])
def test_agrees_with_torchs_kl_div_in_value_and_gradient(
    direction: Any, beta: float, skew: float
) -> None:
    torch.manual_seed(0)
    teacher = torch.randn(2, 5, 31, dtype=torch.float64) * 3
    student = (torch.randn(2, 5, 31, dtype=torch.float64) * 3).requires_grad_()
    labels = torch.tensor([[-100, 3, 4, 5, -100], [-100, -100, 0, 0, 30]])
    for temperature in (0.5, 1.0, 2.0, 4.0):
        scored = labels != -100
        p = (teacher[scored] / temperature).softmax(-1)
        q = (student[scored] / temperature).softmax(-1)
        expected = independent(p, q, direction, beta, skew) * temperature**2 / 6
        found = divergence(student, teacher, labels, direction, temperature, beta, skew)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        pair = [torch.autograd.grad(v, student)[0] for v in (found, expected)]
        torch.testing.assert_close(pair[0], pair[1], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("k", [1, 8, 64])
@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_sparse_signal_is_the_divergence_of_the_two_bucketed_distributions(
    k: int, direction: Any, temperature: float
) -> None:
    torch.manual_seed(1)
    teacher = torch.randn(4, 200, dtype=torch.float64) * 3
    student = torch.randn(4, 200, dtype=torch.float64) * 3
    signal = from_logits(teacher, k, (1.0, 2.0))

    def buckets(logits: Tensor) -> Tensor:
        mass = (logits / temperature).softmax(-1)
        kept = mass.gather(-1, signal.ids_NK)
        rest = mass.scatter(-1, signal.ids_NK, 0).sum(-1, keepdim=True)
        return torch.cat([kept, rest], -1)

    expected = independent(buckets(teacher), buckets(student), direction, 0.5, 0.1) / 4
    found = divergence(student, signal, torch.zeros(4, dtype=torch.long), direction, temperature)
    torch.testing.assert_close(found, expected * temperature**2, rtol=1e-9, atol=1e-12)


def test_student_with_one_percent_on_the_kept_ids_is_not_scored_as_perfect() -> None:
    # Teacher: 99 % on two tokens, 1 % on the other two. Student: the reverse, with the same ratios
    # inside. Renormalised to the kept tokens both sides would be equal and the loss 0.
    teacher = logits_of((0.66, 0.33, 0.005, 0.005))
    student = logits_of((0.02 / 3, 0.01 / 3, 0.495, 0.495))
    signal = from_logits(teacher, 2, (1.0,))
    labels = torch.tensor([0])
    expected = 0.99 * math.log(0.99 / 0.01) + 0.01 * math.log(0.01 / 0.99)
    assert divergence(student, signal, labels).item() == pytest.approx(expected, abs=1e-9)
    assert divergence(student, signal, labels).item() == pytest.approx(
        divergence(student, teacher, labels).item(), abs=1e-9
    )
    renormalised = [x[:, :2].log_softmax(-1) for x in (student, teacher)]
    wrong = torch.nn.functional.kl_div(*renormalised, log_target=True, reduction="sum")
    assert wrong.abs() < 1e-12


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_students_tail_is_summed_where_it_is_far_below_float32_resolution(direction: Any) -> None:
    # The student's mass outside the kept token is 3e-20: 1 - sum(kept) is 0 in float32.
    student = torch.tensor([[0.0, -46.0, -46.0, -46.0]], requires_grad=True)
    teacher = torch.tensor([[2.0, 0.0, 0.0, 0.0]])
    signal = from_logits(teacher, 1, (1.0,))
    labels = torch.tensor([0])
    found = divergence(student, signal, labels, direction)
    exact = divergence(
        student.double(), from_logits(teacher.double(), 1, (1.0,)), labels, direction
    )
    torch.testing.assert_close(found.double(), exact, rtol=1e-5, atol=1e-6)
    found.backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_certain_teacher_does_not_rule_its_whole_tail_out() -> None:
    # In float32 the kept mass of a certain teacher sums to 1, yet its tail is small, not nothing.
    teacher, student = torch.tensor([[20.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 0.0]])
    dense = divergence(student, teacher, torch.tensor([0]), "reverse")
    sparse = divergence(student, from_logits(teacher, 1, (1.0,)), torch.tensor([0]), "reverse")
    assert 0.7 * dense < sparse <= dense


def test_kept_probability_rounded_to_one_does_not_rule_the_tail_out_either() -> None:
    rounded = TopK(torch.tensor([[0]]), torch.zeros(1, 1), torch.zeros(1, 1), (1.0,))
    teacher, student = torch.tensor([[17.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    labels = torch.tensor([0])
    sparse = divergence(student, rounded, labels, "reverse")
    assert 5 < sparse <= divergence(student, teacher, labels, "reverse")


def test_token_that_one_model_rules_out_counts_as_a_thousand_nats_below_certainty() -> None:
    even, one = torch.tensor([[0.0, 0.0]]), torch.tensor([[0.0, -torch.inf]])
    labels = torch.tensor([1])
    expected = 0.5 * math.log(0.5) + 0.5 * (math.log(0.5) + 1000)
    assert divergence(one, even, labels).item() == pytest.approx(expected)
    assert divergence(even, one, labels, "reverse").item() == pytest.approx(expected)
    assert divergence(even, one, labels).item() == pytest.approx(math.log(2))
    assert cross_entropy(one, labels).item() == 1000


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("k", [None, 8])
def test_bfloat16_logits_are_computed_in_float32(direction: Any, k: int | None) -> None:
    torch.manual_seed(2)
    student = (torch.randn(7, 1000) * 4).bfloat16()
    teacher = (torch.randn(7, 1000) * 4).bfloat16()
    labels = torch.zeros(7, dtype=torch.long)
    low = from_logits(teacher, k, (2.0,)) if k else teacher
    high = from_logits(teacher.double(), k, (2.0,)) if k else teacher.double()
    found = divergence(student, low, labels, direction, 2.0)
    assert found.dtype == torch.float32
    exact = divergence(student.double(), high, labels, direction, 2.0)
    assert exact.dtype == torch.float64
    assert found.item() == pytest.approx(exact.item(), rel=1e-4)


def test_cross_entropy_equals_torchs_in_value_and_gradient() -> None:
    torch.manual_seed(3)
    logits = torch.randn(3, 6, 17, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 17, (3, 6))
    labels[0, :4] = labels[2, 5] = -100
    found = cross_entropy(logits, labels)
    expected = torch.nn.functional.cross_entropy(logits.reshape(-1, 17), labels.reshape(-1))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    pair = [torch.autograd.grad(v, logits)[0] for v in (found, expected)]
    torch.testing.assert_close(pair[0], pair[1], rtol=1e-10, atol=1e-14)
    assert cross_entropy_rows(logits[1], labels[1]).shape == (6,)


def test_teacher_rows_are_all_positions_or_exactly_the_scored_ones() -> None:
    torch.manual_seed(4)
    student, teacher = torch.randn(2, 4, 12), torch.randn(2, 4, 12)
    labels = torch.tensor([[-100, 1, 2, -100], [-100, -100, -100, 7]])
    scored = teacher[labels != -100]
    of_all = from_logits(teacher.reshape(-1, 12), 5, (1.0,))
    expected = divergence(student, of_all, labels)
    assert divergence(student, from_logits(scored, 5, (1.0,)), labels) == expected
    dense = divergence(student, teacher, labels)
    for same in (Dense(teacher.reshape(-1, 12)), scored, Dense(scored)):
        assert divergence(student, same, labels) == dense
    for wrong in (from_logits(torch.randn(4, 12), 5, (1.0,)), torch.randn(7, 12)):
        with pytest.raises(UsageError, match="8 positions or of the 3 scored"):
            divergence(student, wrong, labels)


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_fully_masked_batch_gives_zero_with_a_graph(form: str) -> None:
    student = torch.randn(2, 3, 9, requires_grad=True)
    teacher: Any = torch.randn(6, 9)
    teacher = teacher if form == "dense" else from_logits(teacher, 4, (1.0,))
    labels = torch.full((2, 3), -100)
    for found in (divergence(student, teacher, labels), cross_entropy(student, labels)):
        assert found.item() == 0
        student.grad = None
        found.backward()
        assert student.grad is not None
        assert not student.grad.any()


def test_unscored_positions_may_hold_anything() -> None:
    student, teacher = torch.randn(3, 9), torch.randn(3, 9)
    labels = torch.tensor([-100, 2, 3])
    expected = divergence(student, teacher, labels)
    student[0], teacher[0] = torch.nan, torch.inf
    student.requires_grad_()
    found = divergence(student, teacher, labels)
    found.backward()
    assert found == expected
    assert student.grad is not None
    assert not student.grad[0].any()


def test_temperature_that_was_not_stored_is_refused_with_those_that_were() -> None:
    signal = from_logits(torch.randn(2, 9), 3, (1.0, 2.0))
    with pytest.raises(UsageError, match="not hold temperature 3; use one of 1, 2"):
        divergence(torch.randn(2, 9), signal, torch.zeros(2, dtype=torch.long), temperature=3.0)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"direction": "sideways"}, "choose one of forward, reverse"),
        ({"temperature": 0.0}, "positive"),
        ({"temperature": math.inf}, "positive"),
        ({"direction": "jsd", "beta": 0.0}, "inside"),
        ({"direction": "jsd", "beta": 1.0}, "inside"),
        ({"direction": "skew_forward", "skew": 1.0}, "inside"),
        ({"direction": "skew_reverse", "skew": 0.0}, "inside"),
    ],
)
def test_options_outside_their_range_are_refused(options: dict[str, Any], said: str) -> None:
    logits, labels = torch.randn(2, 9), torch.zeros(2, dtype=torch.long)
    with pytest.raises(UsageError, match=said):
        divergence(logits, logits, labels, **options)


def test_shapes_and_vocabularies_that_do_not_fit_are_refused() -> None:
    labels = torch.zeros(2, dtype=torch.long)
    with pytest.raises(UsageError, match="do not fit labels"):
        divergence(torch.randn(3, 9), torch.randn(3, 9), labels)
    with pytest.raises(UsageError, match="do not fit labels"):
        cross_entropy(torch.randn(2, 1, 9), labels)
    with pytest.raises(UsageError, match=r"10 columns, the student's 9.*vocabulary"):
        divergence(torch.randn(2, 9), torch.randn(2, 10), labels)
    with pytest.raises(UsageError, match="keeps 10 tokens of a vocabulary of 9"):
        divergence(torch.randn(2, 9), from_logits(torch.randn(2, 10), 10, (1.0,)), labels)
    with pytest.raises(UsageError, match="1 rows"):
        divergence_rows(torch.randn(2, 9), Dense(torch.randn(1, 9)))


def test_limits_of_beta_and_skew_are_what_the_docs_say() -> None:
    torch.manual_seed(5)
    student, teacher = torch.randn(2, 3, 11, dtype=torch.float64)
    labels, tiny = torch.zeros(3, dtype=torch.long), 1e-7
    forward, reverse = (divergence(student, teacher, labels, d) for d in ("forward", "reverse"))
    near = {
        "beta to 0": (divergence(student, teacher, labels, "jsd", beta=tiny) / tiny, forward),
        "beta to 1": (divergence(student, teacher, labels, "jsd", beta=1 - tiny) / tiny, reverse),
        "skew f": (divergence(student, teacher, labels, "skew_forward", skew=tiny), forward),
        "skew r": (divergence(student, teacher, labels, "skew_reverse", skew=tiny), reverse),
    }
    for name, (found, expected) in near.items():
        assert found.item() == pytest.approx(expected.item(), rel=1e-5), name


def test_a_record_made_by_hand_works() -> None:
    kept = TopK(
        torch.tensor([[0, 1]], dtype=torch.int32),
        torch.tensor([[0.5, 0.25]]).log(),
        torch.tensor([[0.0]]),
        (1.0,),
    )
    found = divergence(logits_of(STUDENT).float(), kept, torch.tensor([0]))
    assert found.item() == pytest.approx(BY_HAND["forward"], abs=1e-6)


def test_losses_are_configured_without_torch() -> None:
    code = (
        "import sys; from limbeck.recipe.component import component_names; "
        "component_names('limbeck.losses'); import limbeck.losses.functional; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_tail_that_a_signal_carries_is_used_and_follows_the_scored_rows(
    direction: Any,
) -> None:
    torch.manual_seed(3)
    teacher, student = torch.randn(5, 30) * 2, torch.randn(5, 30)
    signal = from_logits(teacher, 4, (1.0, 2.0))
    assert signal.log_tails_NT is not None
    plain = replace(signal, log_tails_NT=None)
    labels = torch.tensor([1, -100, 1, -100, 1])
    for temperature in (1.0, 2.0):
        carried, derived = (
            divergence(student, s, labels, direction, temperature).item() for s in (signal, plain)
        )
        assert carried == pytest.approx(derived, rel=1e-4)
    wrong = replace(signal, log_tails_NT=signal.log_tails_NT - 1)
    changed = divergence(student, wrong, labels, direction, 2.0).item()
    assert abs(changed - derived) > 1e-3
