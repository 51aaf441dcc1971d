"""Laws of losses that take a teacher with another tokenizer, inherited by `crosses_tokenizers`."""

from __future__ import annotations

import dataclasses
import itertools
from functools import partial

import pytest
import torch
from test_losses import (
    TEMPERATURES,
    VOCABULARY,
    at,
    gradient,
    label,
    rows,
    signals,
    value,
    variants,
)
from torch import Tensor

from limbeck.losses import Loss
from limbeck.records import Dense, Unaligned

every_crossing = pytest.mark.parametrize(
    "loss", [loss for loss in variants() if loss.crosses_tokenizers], ids=label
)
STUDENT_SPANS = [0, 1, 1, 2, 3, 3, 3, 4]
TEACHER_SPANS = [0, 0, 1, 2, 2, 3, 4]


def across(
    seed: int, form: str, *, spread: float = 2.0, spans: slice = slice(0, 5)
) -> tuple[Tensor, Unaligned, Tensor]:
    """Five spans (or some of them) with one to three tokens of either model."""
    _, teacher, answer = rows(len(TEACHER_SPANS), seed, spread=spread)
    student, _, labels = rows(len(STUDENT_SPANS), seed + 1000, spread=spread)
    # The student's vocabulary is smaller.
    student, labels = student[:, : VOCABULARY - 5], labels % (VOCABULARY - 5)
    kept = range(*spans.indices(5))
    ours = [i for i, span in enumerate(STUDENT_SPANS) if span in kept]
    theirs = [i for i, span in enumerate(TEACHER_SPANS) if span in kept]
    signal = signals(teacher[theirs])[form]
    assert not isinstance(signal, Unaligned)
    pair = Unaligned(
        signal,
        answer[theirs],
        torch.tensor([TEACHER_SPANS[i] - spans.start for i in theirs], dtype=torch.long),
        torch.tensor([STUDENT_SPANS[i] - spans.start for i in ours], dtype=torch.long),
        len(kept),
        VOCABULARY,
    )
    return student[ours], pair, labels[ours]


every_form = pytest.mark.parametrize("form", ["dense", "top-1", "top-8", "all"])


@every_crossing
@every_form
def test_across_tokenizers_is_never_negative_and_its_gradient_is_that_of_the_value(
    loss: Loss, form: str
) -> None:
    for seed, temperature in itertools.product(range(3), (0.5, 1.0, 4.0)):
        student, pair, labels = across(seed, form)
        student = student.clone().requires_grad_()
        tempered = at(loss, temperature)
        assert value(tempered, student, pair, labels) >= 0
        of_student = partial(value, tempered, teacher=pair, labels=labels)
        assert torch.autograd.gradcheck(of_student, [student])


@every_crossing
@every_form
def test_across_tokenizers_splitting_changes_no_gradient(loss: Loss, form: str) -> None:
    student, pair, labels = across(20, form)
    whole = gradient(loss, student, pair, labels)
    for cut in range(1, 5):
        pieces = [across(20, form, spans=part) for part in (slice(0, cut), slice(cut, 5))]
        assert sum(piece.spans for _, piece, _ in pieces) == pair.spans
        found = torch.cat([gradient(loss, *piece) for piece in pieces])
        assert (found - whole).norm() <= 1e-10 * whole.norm()


@every_crossing
@every_form
def test_across_tokenizers_no_span_gives_zero_with_a_graph(loss: Loss, form: str) -> None:
    leaf, pair, labels = across(30, form, spans=slice(0, 0))
    leaf = leaf.clone().requires_grad_()
    found = value(loss, leaf, pair, labels)
    assert found.item() == 0
    found.backward()
    assert leaf.grad is not None


@every_crossing
@every_form
def test_across_tokenizers_one_token_a_span_is_the_loss_of_aligned_rows(
    loss: Loss, form: str
) -> None:
    student, teacher, labels = rows(6, seed=31)
    signal = signals(teacher)[form]
    assert not isinstance(signal, Unaligned)
    spans = torch.arange(6)
    # Which tokens stand there does not matter where every span is one.
    pair = Unaligned(signal, (labels + 1) % VOCABULARY, spans, spans, 6, VOCABULARY)
    aligned = value(loss, student, signal, labels)
    torch.testing.assert_close(value(loss, student, pair, labels), aligned, rtol=1e-12, atol=0)


@every_crossing
@pytest.mark.parametrize("temperature", TEMPERATURES)
@every_form
def test_across_tokenizers_equal_models_have_no_distance(
    loss: Loss, temperature: float, form: str
) -> None:
    _, teacher, labels = rows(len(STUDENT_SPANS), seed=32)
    signal = signals(teacher)[form]
    assert not isinstance(signal, Unaligned)
    spans = torch.tensor(STUDENT_SPANS)
    pair = Unaligned(signal, labels, spans, spans, 5, VOCABULARY)
    tempered = at(loss, temperature, scale_by_temperature_squared=False)
    assert abs(value(tempered, teacher, pair, labels)) < 1e-12
    if form == "dense":
        assert not gradient(tempered, teacher, pair, labels).any()
        assert value(tempered, teacher.float(), _in_float32(pair), labels) == 0


def _in_float32(pair: Unaligned) -> Unaligned:
    assert isinstance(pair.signal, Dense)
    return dataclasses.replace(pair, signal=Dense(pair.signal.logits_NV.float()))


@every_crossing
def test_across_tokenizers_extreme_logits_and_temperatures_stay_finite(loss: Loss) -> None:
    for temperature, form in itertools.product(TEMPERATURES, ("dense", "top-1", "top-8", "all")):
        student, pair, labels = across(33, form, spread=30)
        student[1, :10] = student[2, labels[2]] = -torch.inf
        for dtype in (torch.float32, torch.float64):
            found = value(at(loss, temperature), student.to(dtype), pair, labels)
            assert found.isfinite()
            slope = gradient(at(loss, temperature), student.to(dtype), pair, labels)
            assert slope.isfinite().all()
