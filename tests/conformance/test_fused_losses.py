"""Laws that every loss with a fused form inherits: it says what its plain form says."""

from __future__ import annotations

import itertools
from typing import Literal, get_args, get_origin

import pytest
import torch
from torch import Tensor

from limbeck.losses import Loss
from limbeck.losses import fused as fused_module
from limbeck.losses.fused import fused_sums
from limbeck.recipe.component import component_class, component_names
from limbeck.records import Dense, LinearHead, StudentView, TeacherSignal
from limbeck.signals.top_k import from_logits

PACKAGE = "limbeck.losses"
TEMPERATURES = (0.5, 1.0, 2.0, 4.0)
ROWS, WIDTH, VOCABULARY, PADDING = 23, 12, 40, (3, 5)
FORMS = ("dense", "top-1", "top-8", "all")


def variants() -> list[Loss]:
    found: list[Loss] = []
    for name in component_names(PACKAGE):
        cls = component_class(PACKAGE, name)
        assert issubclass(cls, Loss)
        if not cls.fused:
            continue
        words = {
            field: get_args(info.annotation)
            for field, info in cls.model_fields.items()
            if get_origin(info.annotation) is Literal and field not in ("kind", "target")
        }
        temperatures = TEMPERATURES if "temperature" in cls.model_fields else (None,)
        for choice, temperature in itertools.product(
            itertools.product(*words.values()), temperatures
        ):
            fields = dict(zip(words, choice, strict=True))
            found.append(cls(**fields, **({"temperature": temperature} if temperature else {})))
    return found


def label(loss: Loss) -> str:
    fields = loss.model_dump()
    return "-".join(str(fields[k]) for k in ("kind", "direction", "temperature") if k in fields)


every_loss = pytest.mark.parametrize("loss", variants(), ids=label)
every_divergence = pytest.mark.parametrize(
    "loss", [loss for loss in variants() if loss.needs_signal], ids=label
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rows a block, so that every test crosses blocks."""
    monkeypatch.setitem(fused_module.BLOCK_ELEMENTS, "cpu", 2 * VOCABULARY)


def student(dtype: torch.dtype, *, seed: int = 0, trained: bool = True) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    rows = sum(PADDING) + VOCABULARY
    hidden_NH = torch.randn(ROWS, WIDTH, generator=generator, dtype=torch.float64)
    weight_RH = torch.randn(rows, WIDTH, generator=generator, dtype=torch.float64) * 0.7
    leaves = hidden_NH.to(dtype).requires_grad_(), weight_RH.to(dtype).requires_grad_(trained)
    return *leaves, torch.randint(0, VOCABULARY, (ROWS,), generator=generator)


def signal(form: str, dtype: torch.dtype, *, seed: int = 1) -> TeacherSignal:
    generator = torch.Generator().manual_seed(seed)
    logits_NV = torch.randn(ROWS, VOCABULARY, generator=generator, dtype=torch.float64).to(dtype)
    k = {"top-1": 1, "top-8": 8, "all": VOCABULARY}.get(form)
    return Dense(logits_NV * 3) if k is None else from_logits(logits_NV * 3, k, TEMPERATURES)


def plain(loss: Loss, hidden_NH: Tensor, weight_RH: Tensor, labels_N: Tensor, teacher: object):
    logits_NV = (hidden_NH @ weight_RH.T)[:, PADDING[0] : PADDING[0] + VOCABULARY]
    view = StudentView(labels_N, hidden_NH, lambda hidden: hidden)
    view.__dict__["logits_NV"] = logits_NV  # keeps float64, where the view would round
    return loss(view, teacher).sum  # type: ignore[arg-type]


def head(hidden_NH: Tensor, weight_RH: Tensor) -> LinearHead:
    return LinearHead(((hidden_NH, weight_RH),), None, PADDING[0], VOCABULARY)


@every_loss
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)], ids=str
)
def test_value_and_gradients_are_those_of_the_plain_form(
    loss: Loss, form: str, dtype: torch.dtype, tolerance: float
) -> None:
    hidden_NH, weight_RH, labels_N = student(dtype)
    teacher = signal(form, dtype)
    expected = plain(loss, hidden_NH, weight_RH, labels_N, teacher)
    total, sums = fused_sums(
        head(hidden_NH, weight_RH), labels_N, [loss], [0.3], teacher, chunk_rows=7
    )
    torch.testing.assert_close(sums[0], expected, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(total, expected * 0.3, rtol=tolerance, atol=tolerance)
    ours = torch.autograd.grad(total, [hidden_NH, weight_RH])
    theirs = torch.autograd.grad(expected * 0.3, [hidden_NH, weight_RH])
    for found, wanted in zip(ours, theirs, strict=True):
        assert (found - wanted).norm() <= tolerance * wanted.norm()


@every_divergence
def test_agreeing_models_have_no_distance_and_no_gradient(loss: Loss) -> None:
    hidden_NH, weight_RH, labels_N = student(torch.float32)
    one = head(hidden_NH, weight_RH)
    agreeing = (hidden_NH @ weight_RH.T).detach()[:, one.first : one.first + one.size]
    total, sums = fused_sums(one, labels_N, [loss], [1.0], Dense(agreeing))
    assert sums.abs().max() == 0
    total.backward()
    assert hidden_NH.grad is not None
    assert not hidden_NH.grad.any()


@every_loss
def test_tokens_that_the_teacher_rules_out_stay_finite_and_as_in_the_plain_form(
    loss: Loss,
) -> None:
    hidden_NH, weight_RH, labels_N = student(torch.float32)
    teacher = signal("dense", torch.float32)
    assert isinstance(teacher, Dense)
    teacher.logits_NV[::2, ::3] = -torch.inf
    total, _ = fused_sums(head(hidden_NH, weight_RH), labels_N, [loss], [1.0], teacher)
    (found,) = torch.autograd.grad(total, [hidden_NH])
    # In float64, since in float32 the plain form's log-probability of -1000 costs it four digits.
    exact = hidden_NH.detach().double().requires_grad_()
    teacher = Dense(teacher.logits_NV.double())
    expected = plain(loss, exact, weight_RH.double(), labels_N, teacher)
    (wanted,) = torch.autograd.grad(expected, [exact])
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-5)
    assert found.isfinite().all()
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()


@every_loss
@pytest.mark.parametrize("form", ["dense", "top-8"])
def test_a_peaked_student_stays_finite_and_as_in_the_plain_form(loss: Loss, form: str) -> None:
    hidden_NH, weight_RH, labels_N = student(torch.float32)
    hidden_NH = (hidden_NH * 60).detach().requires_grad_()
    teacher = signal(form, torch.float32)
    expected = plain(loss, hidden_NH, weight_RH, labels_N, teacher)
    total, _ = fused_sums(head(hidden_NH, weight_RH), labels_N, [loss], [1.0], teacher)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=1e-5)
    (found,) = torch.autograd.grad(total, [hidden_NH])
    (wanted,) = torch.autograd.grad(expected, [hidden_NH])
    assert found.isfinite().all()
    # Where all mass is on one token, a slope can be the rounding of a difference of two 1s.
    assert (found - wanted).norm() <= 1e-5 * wanted.norm() + 1e-5


def test_the_losses_of_the_package_have_fused_forms() -> None:
    kinds = {loss.model_dump()["kind"] for loss in variants()}
    assert {"cross_entropy", "divergence"} <= kinds
