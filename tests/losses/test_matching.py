"""Which layers VLsI's search may choose, against a brute-force check that shares no code."""

from __future__ import annotations

import itertools
import random

import pytest
import torch

from limbeck.losses.matching import Matching, choose, temperature_of, window

RULES: tuple[Matching, ...] = ("random", "uniform", "bottom1", "bottom3", "multinomial")


def matched(
    k: torch.Tensor, matching: Matching, *, search_range: bool, order: bool, seed: int
) -> list[int]:
    """Choices for all of the student's targets."""
    student, teacher = k.shape
    generator = torch.Generator().manual_seed(seed)
    chosen: list[int] = []
    lowest = 0
    for layer in range(student):
        found = window(layer, lowest, student, teacher, search_range=search_range, order=order)
        own = k[layer, found.start : found.stop]
        temperature = temperature_of(own, "inverse_range", 1.0)
        chosen.append(
            choose(
                own,
                layer,
                student,
                teacher,
                matching,
                first=found.start,
                temperature=temperature,
                generator=generator,
            )
        )
        lowest = chosen[-1] + 1
    return chosen


def possible(student: int, teacher: int) -> set[tuple[int, ...]]:
    """Every way to give each of the student's targets a later layer of the teacher."""
    return set(itertools.combinations(range(teacher), student))


def test_order_and_range_hold_in_ten_thousand_random_cases() -> None:
    draw = random.Random(0)
    for case in range(10_000):
        teacher = draw.randint(1, 8)
        student = draw.randint(1, teacher)
        k = torch.rand(student, teacher, generator=torch.Generator().manual_seed(case))
        matching = draw.choice(RULES)
        found = tuple(matched(k, matching, search_range=True, order=True, seed=case))
        assert found in possible(student, teacher), (matching, student, teacher, found)
        loose = matched(k, matching, search_range=True, order=False, seed=case)
        for layer, choice in enumerate(loose):
            later = student - 1 - layer
            assert 0 <= choice <= teacher - 1 - later, "leaves a layer for each that comes later"


def test_every_way_that_is_allowed_can_be_drawn() -> None:
    seen = {
        tuple(matched(torch.rand(3, 5), "random", search_range=True, order=True, seed=seed))
        for seed in range(2000)
    }
    assert seen == possible(3, 5)


def test_bottom1_is_the_greedy_choice_by_brute_force() -> None:
    for case in range(500):
        k = torch.rand(3, 6, generator=torch.Generator().manual_seed(case))
        found = matched(k, "bottom1", search_range=True, order=True, seed=0)
        lowest = 0
        for layer in range(3):
            allowed = [j for j in range(6) if j >= lowest and 6 - 1 - j >= 3 - 1 - layer]
            best = min(allowed, key=lambda j: float(k[layer, j]))
            assert found[layer] == best
            lowest = best + 1


def test_uniform_is_even_whatever_the_divergences_are() -> None:
    for matrix in (torch.rand(2, 8), torch.zeros(2, 8)):
        assert matched(matrix, "uniform", search_range=False, order=False, seed=1) == [3, 7]
        assert matched(matrix, "uniform", search_range=True, order=True, seed=1) == [3, 7]


def test_bottom3_draws_the_three_smallest_about_equally_often() -> None:
    k = torch.tensor([5.0, 1.0, 4.0, 0.5, 2.0])
    generator = torch.Generator().manual_seed(0)
    counts = [0] * 5
    for _ in range(3000):
        chosen = choose(k, 0, 1, 5, "bottom3", first=0, temperature=1.0, generator=generator)
        counts[chosen] += 1
    assert counts[0] == counts[2] == 0
    assert all(900 < counts[at] < 1100 for at in (1, 3, 4))


@pytest.mark.parametrize("temperature", [0.25, 1.0, 4.0])
def test_multinomial_draws_by_the_softmax_of_minus_k_over_t(temperature: float) -> None:
    k = torch.tensor([0.1, 0.9, 0.4])
    expected = (-k / temperature).softmax(0)
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(3)
    for _ in range(20_000):
        counts[
            choose(k, 0, 1, 3, "multinomial", first=0, temperature=temperature, generator=generator)
        ] += 1
    assert torch.allclose(counts / 20_000, expected, atol=0.015)


def test_both_readings_of_the_temperature() -> None:
    k = torch.tensor([1.0, 3.0, 1.5])
    assert float(temperature_of(k, "inverse_range", 2.0)) == pytest.approx(1.0, rel=1e-5)
    assert float(temperature_of(k, "range", 2.0)) == pytest.approx(4.0, rel=1e-5)
    flat = torch.tensor([1.0, 1.0])
    assert float(temperature_of(flat, "inverse_range", 1.0)) == pytest.approx(1e6, rel=1e-3)
    even = (-flat / temperature_of(flat, "range", 1.0)).softmax(0)
    assert torch.allclose(even, torch.tensor([0.5, 0.5])), "no difference, no preference"
