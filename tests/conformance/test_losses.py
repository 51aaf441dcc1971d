"""Laws that every loss inherits by being a file in limbeck/losses.

A loss's variants are all combinations of its Literal options. Losses that read the teacher's
distributions are divergences and have to pass the laws of divergences as well. Losses that cross
tokenizers have to pass more of them in test_losses_across_tokenizers.py.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from torch import Tensor

from limbeck.losses import Loss
from limbeck.recipe.component import component_class, component_names
from limbeck.records import AnswerSize, Dense, StudentView, TeacherSignal, TopK, Unaligned
from limbeck.signals.top_k import from_logits

PACKAGE = "limbeck.losses"
TEMPERATURES = (0.1, 0.5, 1.0, 2.0, 4.0, 20.0)
VOCABULARY = 24


def variants() -> list[Loss]:
    """Every loss with every combination of its words."""
    found: list[Loss] = []
    for name in component_names(PACKAGE):
        cls = component_class(PACKAGE, name)
        assert issubclass(cls, Loss)
        if cls.reads_features:  # their laws are in test_feature_losses.py
            continue
        words = {
            field: get_args(info.annotation)
            for field, info in cls.model_fields.items()
            if get_origin(info.annotation) is Literal and field not in ("kind", "target")
        }
        found += [
            cls(**dict(zip(words, choice, strict=True)))
            for choice in itertools.product(*words.values())
        ]
    return found


def label(loss: Loss) -> str:
    fields = loss.model_dump()
    words = [v for k, v in fields.items() if isinstance(v, str) and k != "target"]
    return "-".join(words)


def at(loss: Loss, temperature: float, **fields: Any) -> Loss:
    """The same loss at another temperature, where it has one."""
    if "temperature" not in type(loss).model_fields:
        return loss
    return loss.model_copy(update={"temperature": temperature, **fields})


every_loss = pytest.mark.parametrize("loss", variants(), ids=label)
every_divergence = pytest.mark.parametrize(
    "loss", [loss for loss in variants() if loss.needs_signal], ids=label
)


def value(loss: Loss, student_NV: Tensor, teacher: TeacherSignal | None, labels: Tensor) -> Tensor:
    """The loss of float64 or float32 logits: the view's head is the identity."""
    view = StudentView(labels, student_NV, lambda hidden: hidden)
    view.__dict__["logits_NV"] = student_NV  # keeps float64, where the view would round
    term = loss(view, teacher)
    spans = teacher.spans if isinstance(teacher, Unaligned) else len(labels)
    assert term.count == loss.count_of(AnswerSize(len(labels), spans))
    return term.sum


def rows(count: int, seed: int, *, spread: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, VOCABULARY)
    student = torch.randn(shape, generator=generator, dtype=torch.float64) * spread
    teacher = torch.randn(shape, generator=generator, dtype=torch.float64) * spread
    labels = torch.randint(0, VOCABULARY, (count,), generator=generator)
    return student, teacher, labels


def gradient(loss: Loss, student: Tensor, teacher: TeacherSignal | None, labels: Tensor) -> Tensor:
    leaf = student.clone().requires_grad_()
    (found,) = torch.autograd.grad(value(loss, leaf, teacher, labels), leaf)
    return found


def signals(teacher_NV: Tensor) -> dict[str, TeacherSignal]:
    return {
        "dense": Dense(teacher_NV),
        "top-1": from_logits(teacher_NV, 1, TEMPERATURES),
        "top-8": from_logits(teacher_NV, 8, TEMPERATURES),
        "all": from_logits(teacher_NV, VOCABULARY, TEMPERATURES),
    }


@every_loss
def test_is_never_negative(loss: Loss) -> None:
    for seed, temperature in itertools.product(range(5), TEMPERATURES):
        student, teacher, labels = rows(6, seed)
        for name, signal in signals(teacher).items():
            found = value(at(loss, temperature), student, signal, labels)
            assert found >= -1e-12, (name, temperature)
            assert found > 1e-9 or name == "top-1", "different distributions have a distance"


@every_loss
@pytest.mark.parametrize("form", ["dense", "top-1", "top-8", "all"])
def test_gradient_is_that_of_the_value(loss: Loss, form: str) -> None:
    student, teacher, labels = rows(3, seed=1)
    signal = signals(teacher)[form]
    student.requires_grad_()
    for temperature in (0.5, 1.0, 4.0):
        of_student = partial(value, at(loss, temperature), teacher=signal, labels=labels)
        assert torch.autograd.gradcheck(of_student, [student])


@every_loss
def test_adding_a_constant_to_one_models_logits_changes_nothing(loss: Loss) -> None:
    student, teacher, labels = rows(6, seed=2)
    shift = torch.linspace(-40, 40, 6, dtype=torch.float64)[:, None]
    for temperature in (0.5, 1.0, 2.0):
        tempered = at(loss, temperature)
        for name, signal in signals(teacher).items():
            plain = value(tempered, student, signal, labels)
            of_student = value(tempered, student + shift, signal, labels)
            of_teacher = value(tempered, student, signals(teacher + shift)[name], labels)
            torch.testing.assert_close(of_student, plain, rtol=1e-9, atol=1e-10)
            torch.testing.assert_close(of_teacher, plain, rtol=1e-9, atol=1e-10)


@every_loss
@pytest.mark.parametrize("form", ["dense", "top-1", "top-8", "all"])
def test_no_supervised_row_gives_zero_with_a_graph(loss: Loss, form: str) -> None:
    leaf = torch.randn(4, VOCABULARY, requires_grad=True)
    none = torch.zeros(4, dtype=torch.bool)
    empty = signals(torch.empty(0, VOCABULARY)) if form == "dense" else None
    signal = empty["dense"] if empty else _no_rows(signals(torch.randn(4, VOCABULARY))[form])
    found = value(loss, leaf[none], signal, torch.empty(0, dtype=torch.long))
    assert found.item() == 0
    found.backward()
    assert leaf.grad is not None
    assert not leaf.grad.any()


def _no_rows(signal: TeacherSignal) -> TopK:
    assert isinstance(signal, TopK)
    return TopK(signal.ids_NK[:0], signal.logp_NK[:0], signal.log_sums_NT[:0], signal.temperatures)


@every_loss
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_ruled_out_tokens_and_extreme_temperatures_stay_finite(
    loss: Loss, temperature: float, dtype: torch.dtype
) -> None:
    student, teacher, labels = rows(5, seed=3, spread=30)
    student[0, 3] = student[1, :20] = -torch.inf  # the student alone
    teacher[2, 5] = teacher[3, :20] = -torch.inf  # the teacher alone
    student[4, 2:] = teacher[4, 2:] = -torch.inf  # both
    labels = labels.clamp(min=20)
    labels[4] = 1
    student, teacher = student.to(dtype), teacher.to(dtype)
    for name, signal in signals(teacher).items():
        tempered = at(loss, temperature)
        assert value(tempered, student, signal, labels).isfinite(), name
        assert gradient(tempered, student, signal, labels).isfinite().all(), name


@every_loss
@pytest.mark.parametrize("form", ["dense", "top-8"])
@pytest.mark.parametrize("pieces", [(42,), (3, 20, 7, 12), (1, 1, 38, 2), (21, 0, 21)])
def test_splitting_into_ragged_micro_batches_changes_no_gradient(
    loss: Loss, form: str, pieces: tuple[int, ...]
) -> None:
    student, teacher, labels = rows(42, seed=4)
    whole = gradient(loss, student.float(), signals(teacher.float())[form], labels) / 42
    leaf = student.float().requires_grad_()
    counts = 0
    start = 0
    for size in pieces:
        piece = slice(start, start + size)
        start += size
        if not size:
            continue
        view = StudentView(labels[piece], leaf[piece], lambda hidden: hidden)
        term = loss(view, signals(teacher.float()[piece])[form])
        counts += term.count
        (term.sum / 42).backward()
    assert counts == 42
    assert leaf.grad is not None
    assert (leaf.grad - whole).norm() <= 1e-6 * whole.norm()


@every_loss
def test_each_row_counts_by_itself(loss: Loss) -> None:
    student, teacher, labels = rows(5, seed=5)
    together = value(loss, student, Dense(teacher), labels)
    alone = [
        value(loss, student[i : i + 1], Dense(teacher[i : i + 1]), labels[i : i + 1])
        for i in range(5)
    ]
    torch.testing.assert_close(torch.stack(alone).sum(), together, rtol=1e-12, atol=0)


@every_divergence
@pytest.mark.parametrize("form", ["dense", "top-1", "top-8", "all"])
def test_is_zero_with_zero_gradient_where_the_models_agree(loss: Loss, form: str) -> None:
    _, teacher, labels = rows(6, seed=6, spread=4)
    teacher[0, 4] = -torch.inf
    for temperature in TEMPERATURES:
        tempered = at(loss, temperature, scale_by_temperature_squared=False)
        signal = signals(teacher)[form]
        assert abs(value(tempered, teacher, signal, labels)) < 1e-12
        assert gradient(tempered, teacher, signal, labels).abs().max() < 1e-12


@every_divergence
def test_is_exactly_zero_for_one_set_of_logits_in_float32(loss: Loss) -> None:
    _, teacher, labels = rows(6, seed=7, spread=8)
    same = teacher.float()
    for temperature in TEMPERATURES:
        assert value(at(loss, temperature), same, Dense(same), labels) == 0
        assert not gradient(at(loss, temperature), same, Dense(same), labels).any()


@every_divergence
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sparse_signal_that_keeps_all_tokens_equals_the_dense_one(
    loss: Loss, dtype: torch.dtype
) -> None:
    student, teacher, labels = rows(6, seed=8)
    student, teacher = student.to(dtype), teacher.to(dtype)
    for temperature in TEMPERATURES:
        tempered = at(loss, temperature, scale_by_temperature_squared=False)
        both = [signals(teacher)[form] for form in ("all", "dense")]
        sparse, dense = (value(tempered, student, signal, labels) / 6 for signal in both)
        torch.testing.assert_close(sparse, dense, rtol=1e-6, atol=1e-6)
        sparse, dense = (gradient(tempered, student, signal, labels) for signal in both)
        # Divided by T, rounding of the stored numbers grows with 1 / T.
        torch.testing.assert_close(sparse, dense, rtol=1e-6 / min(temperature, 1), atol=1e-6)


@every_divergence
def test_sparse_signal_never_exceeds_the_dense_one_and_grows_with_k(loss: Loss) -> None:
    for seed, temperature in itertools.product(range(5), TEMPERATURES):
        student, teacher, labels = rows(4, seed=seed, spread=3)
        tempered = at(loss, temperature)
        found = [
            value(tempered, student, from_logits(teacher, k, TEMPERATURES), labels)
            for k in (1, 2, 8, VOCABULARY - 1)
        ] + [value(tempered, student, Dense(teacher), labels)]
        for coarse, fine in itertools.pairwise(found):
            # Reverse needs log(tail), and a tail near 0, being a difference, has few digits.
            assert coarse <= fine * (1 + 1e-6) + 1e-12


@every_divergence
def test_is_scaled_by_the_squared_temperature_once(loss: Loss) -> None:
    student, teacher, labels = rows(4, seed=9)
    for temperature, signal in itertools.product((0.5, 1.0, 4.0), signals(teacher).values()):
        scaled, bare = (
            value(
                at(loss, temperature, scale_by_temperature_squared=scale), student, signal, labels
            )
            for scale in (True, False)
        )
        torch.testing.assert_close(scaled, bare * temperature**2)
    # Without the scale the temperature only divides the logits.
    hot = at(loss, 4.0, scale_by_temperature_squared=False)
    plain = at(loss, 1.0, scale_by_temperature_squared=False)
    torch.testing.assert_close(
        value(hot, student, Dense(teacher), labels),
        value(plain, student / 4, Dense(teacher / 4), labels),
    )


@every_divergence
def test_refuses_to_run_without_the_teachers_distributions(loss: Loss) -> None:
    student, _, labels = rows(2, seed=10)
    with pytest.raises(ValueError, match=r"label\.signal"):
        value(loss, student, None, labels)


@every_divergence
def test_gives_the_teacher_no_gradient(loss: Loss) -> None:
    student, teacher, labels = rows(3, seed=11)
    teacher.requires_grad_()
    student.requires_grad_()
    value(loss, student, Dense(teacher), labels).backward()
    assert student.grad is not None
    assert teacher.grad is None


def test_every_loss_file_is_covered() -> None:
    on_inner_states = {
        name for name in component_names(PACKAGE) if component_class(PACKAGE, name).reads_features
    }
    own = {loss.model_dump()["kind"] for loss in variants()}
    assert own == set(component_names(PACKAGE)) - on_inner_states
    assert "hidden_states" in on_inner_states, "whose laws are in test_feature_losses.py"
    assert {"cross_entropy", "divergence"} <= set(component_names(PACKAGE))
    assert len([loss for loss in variants() if loss.needs_signal]) >= 6
