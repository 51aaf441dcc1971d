"""Options of the two losses: what a recipe may say, and that each of them is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from limbeck.errors import UsageError
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.divergence import Divergence
from limbeck.losses.functional import cross_entropy, divergence
from limbeck.recipe.component import build_component
from limbeck.records import Dense, StudentView


def view(logits: torch.Tensor) -> StudentView:
    return StudentView(torch.tensor([1, 0, 4]), logits, lambda hidden: hidden)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"direction": "reverse"},
        {"temperature": 3.0},
        {"temperature": 3.0, "scale_by_temperature_squared": False},
        {"direction": "jsd", "beta": 0.8},
        {"direction": "skew_forward", "skew": 0.4},
        {"direction": "skew_reverse", "skew": 0.4},
        {"direction": "total_variation"},
    ],
)
def test_divergence_is_the_public_function_before_its_mean(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 7)
    term = Divergence(**options)(view(student), Dense(teacher))
    assert term.count == 3
    expected = divergence(student, teacher, torch.zeros(3, dtype=torch.long), **options)
    torch.testing.assert_close(term.sum / 3, expected)
    if options:
        assert term.sum != Divergence()(view(student), Dense(teacher)).sum


def test_cross_entropy_is_the_public_function_before_its_mean() -> None:
    logits = torch.randn(3, 7)
    term = CrossEntropy()(view(logits), None)
    torch.testing.assert_close(term.sum / term.count, cross_entropy(logits, view(logits).labels_N))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"direction": "forward", "beta": 0.7}, "forward does not read beta"),
        ({"direction": "jsd", "skew": 0.3}, "jsd does not read skew"),
        ({"direction": "jsd", "beta": 1.0}, "beta"),
        ({"direction": "sideways"}, "direction"),
        ({"temperature": 0}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"weight": -1}, "weight"),
        ({"temprature": 2}, "did you mean 'temperature'"),
    ],
)
def test_option_that_would_be_ignored_or_is_out_of_range_is_refused(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        build_component("limbeck.losses", "kind", {"kind": "divergence", **options})


def test_cross_entropy_has_no_temperature() -> None:
    with pytest.raises(UsageError, match="unknown key 'temperature'"):
        build_component("limbeck.losses", "kind", {"kind": "cross_entropy", "temperature": 2})


def test_a_dumped_loss_can_be_read_back() -> None:
    loss = Divergence(direction="jsd", beta=0.3, weight=0.7)
    assert build_component("limbeck.losses", "kind", loss.model_dump(mode="json")) == loss
