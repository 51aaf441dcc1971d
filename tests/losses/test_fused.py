"""Head and losses in one pass: equal to the plain path in every way it is used, in less memory."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from limbeck.errors import UsageError
from limbeck.losses import Loss
from limbeck.losses import fused as fused_module
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.directions import Direction
from limbeck.losses.divergence import Divergence
from limbeck.losses.fused import fused_sums
from limbeck.records import Dense, LinearHead, StudentView, TeacherSignal
from limbeck.signals.top_k import from_logits

TEMPERATURES = (0.5, 1.0, 2.0, 4.0)
HEADS = ("trained", "frozen", "tied")
TOKENS, WIDTH, VOCABULARY, FIRST, ROWS = 31, 16, 50, 2, 57
RAGGED = (3, 20, 0, 1, 7)
WEIGHTS = [0.3, 0.7]


class Student(torch.nn.Module):
    """Embedding, one layer, head: small, and its head can be the embedding."""

    def __init__(self, head: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = torch.nn.Embedding(ROWS, WIDTH)
        self.layer = torch.nn.Linear(WIDTH, WIDTH)
        self.head = torch.nn.Linear(WIDTH, ROWS, bias=False)
        if head == "tied":
            self.head.weight = self.embedding.weight
        self.head.weight.requires_grad_(head != "frozen")

    def hidden(self, tokens_N: Tensor) -> Tensor:
        return self.layer(self.embedding(tokens_N)).tanh()

    def plain(self, tokens_N: Tensor, labels_N: Tensor, losses: list[Loss], teacher: Any) -> Tensor:
        hidden_NH = self.hidden(tokens_N)
        view = StudentView(
            labels_N, hidden_NH, lambda h: self.head(h)[:, FIRST : FIRST + VOCABULARY]
        )
        sums = torch.stack([loss(view, teacher).sum for loss in losses])
        return (sums * torch.tensor(WEIGHTS[: len(losses)])).sum()

    def fused(self, tokens_N: Tensor, labels_N: Tensor, losses: list[Loss], teacher: Any) -> Tensor:
        head = LinearHead(((self.hidden(tokens_N), self.head.weight),), None, FIRST, VOCABULARY)
        return fused_sums(head, labels_N, losses, WEIGHTS[: len(losses)], teacher, chunk_rows=8)[0]

    def gradients(self) -> list[Tensor]:
        return [p.grad for p in self.parameters() if p.grad is not None]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fused_module.BLOCK_ELEMENTS, "cpu", 3 * VOCABULARY)


def batch(form: str) -> tuple[Tensor, Tensor, Callable[[slice], TeacherSignal]]:
    generator = torch.Generator().manual_seed(1)
    tokens_N = torch.randint(0, ROWS, (TOKENS,), generator=generator)
    labels_N = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    logits_NV = torch.randn(TOKENS, VOCABULARY, generator=generator) * 3

    def signal(rows: slice) -> TeacherSignal:
        own = logits_NV[rows]
        return Dense(own) if form == "dense" else from_logits(own, 6, TEMPERATURES)

    return tokens_N, labels_N, signal


def assert_same(ours: list[Tensor], theirs: list[Tensor], tolerance: float = 1e-5) -> None:
    assert len(ours) == len(theirs) > 0
    for found, wanted in zip(ours, theirs, strict=True):
        assert (found - wanted).norm() <= tolerance * wanted.norm()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("kind", ["cross_entropy", *get_args(Direction)])
def test_accumulated_gradients_are_those_of_the_plain_path(kind: Any, form: str, head: str) -> None:
    """Every kind alone, and beside cross-entropy, at every temperature."""
    tokens_N, labels_N, signal = batch(form)
    variants: list[list[Loss]] = [[CrossEntropy()]]
    if kind != "cross_entropy":
        tempered = [Divergence(direction=kind, temperature=t) for t in TEMPERATURES]
        variants = [[one] for one in tempered] + [[CrossEntropy(), one] for one in tempered]
    for losses in variants:
        whole, pieces = Student(head), Student(head)
        whole.plain(tokens_N, labels_N, losses, signal(slice(None))).backward()
        start = 0
        for size in RAGGED:
            rows = slice(start, start := start + size)
            pieces.fused(tokens_N[rows], labels_N[rows], losses, signal(rows)).backward()
        assert start == TOKENS
        assert_same(pieces.gradients(), whole.gradients())
        if head == "frozen":
            assert pieces.head.weight.grad is None


@pytest.mark.parametrize("chunk_rows", [1, 2, 7, 30, 31, 32, 1000])
def test_chunk_boundaries_change_nothing(chunk_rows: int) -> None:
    tokens_N, labels_N, signal = batch("sparse")
    losses = [CrossEntropy(), Divergence(temperature=2.0)]
    student = Student("trained")
    student.plain(tokens_N, labels_N, losses, signal(slice(None))).backward()
    expected = [gradient.clone() for gradient in student.gradients()]
    student.zero_grad()
    head = LinearHead(((student.hidden(tokens_N), student.head.weight),), None, FIRST, VOCABULARY)
    fused_sums(head, labels_N, losses, WEIGHTS, signal(slice(None)), chunk_rows)[0].backward()
    assert_same(student.gradients(), expected)


def test_rows_that_are_not_shared_get_no_gradient() -> None:
    tokens_N, labels_N, signal = batch("dense")
    student = Student("trained")
    student.fused(tokens_N, labels_N, [CrossEntropy()], signal(slice(None))).backward()
    gradient = student.head.weight.grad
    assert gradient is not None
    assert not gradient[:FIRST].any()
    assert not gradient[FIRST + VOCABULARY :].any()
    assert gradient[FIRST : FIRST + VOCABULARY].any(dim=-1).all()


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_no_supervised_row_gives_zero_with_a_graph(form: str) -> None:
    tokens_N, labels_N, signal = batch(form)
    none = slice(0, 0)
    student = Student("trained")
    total = student.fused(
        tokens_N[none], labels_N[none], [CrossEntropy(), Divergence()], signal(none)
    )
    assert total.item() == 0
    total.backward()
    assert student.head.weight.grad is not None
    assert not student.head.weight.grad.any()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("scale", [2.0**16, 3.0, 0.0])
def test_a_scaled_loss_scales_its_own_gradient_only(head: str, scale: float) -> None:
    tokens_N, labels_N, signal = batch("dense")
    losses = [CrossEntropy(), Divergence()]

    def gradients(path: str) -> list[Tensor]:
        student = Student(head)
        total = getattr(student, path)(tokens_N, labels_N, losses, signal(slice(None)))
        # The other summand uses the head's weight and the embedding too.
        other = student.head.weight.square().sum() + student.embedding.weight.sum()
        (total * scale + other).backward()
        return student.gradients()

    assert_same(gradients("fused"), gradients("plain"))


def test_hooks_on_the_weights_see_the_gradient_once() -> None:
    tokens_N, labels_N, signal = batch("dense")
    student, seen = Student("tied"), []
    student.head.weight.register_hook(lambda gradient: seen.append(gradient.clone()))
    student.fused(tokens_N, labels_N, [CrossEntropy()], signal(slice(None))).backward()
    assert len(seen) == 1
    assert torch.equal(seen[0], student.head.weight.grad)


def test_going_back_twice_is_refused() -> None:
    tokens_N, labels_N, signal = batch("dense")
    total = Student("trained").fused(tokens_N, labels_N, [CrossEntropy()], signal(slice(None)))
    total.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        total.backward()


def test_two_terms_and_a_bias_are_one_head() -> None:
    """A low-rank adapter is a second term: the weight of the first may be frozen."""
    tokens_N, labels_N, signal = batch("dense")
    generator = torch.Generator().manual_seed(2)
    down, up = (torch.randn(s, generator=generator) for s in ((4, WIDTH), (ROWS, 4)))
    bias_R = torch.randn(ROWS, generator=generator)
    weight = Student("trained").head.weight.detach()
    hidden_NH = Student("trained").hidden(tokens_N).detach()
    leaves = [tensor.requires_grad_() for tensor in (hidden_NH, down, up, bias_R)]
    losses, teacher = [CrossEntropy(), Divergence(temperature=2.0)], signal(slice(None))
    low_NH = hidden_NH @ down.T * 0.5
    logits_NV = (hidden_NH @ weight.T + low_NH @ up.T + bias_R)[:, FIRST : FIRST + VOCABULARY]
    view = StudentView(labels_N, logits_NV, lambda hidden: hidden)
    expected = sum(w * loss(view, teacher).sum for w, loss in zip(WEIGHTS, losses, strict=True))
    head = LinearHead(((hidden_NH, weight), (low_NH, up)), bias_R, FIRST, VOCABULARY)
    total, _ = fused_sums(head, labels_N, losses, WEIGHTS, teacher, chunk_rows=8)
    theirs = torch.autograd.grad(expected, leaves, retain_graph=True)
    assert_same(list(torch.autograd.grad(total, leaves)), list(theirs))


def test_without_gradients_there_are_values_only() -> None:
    tokens_N, labels_N, signal = batch("dense")
    student, losses = Student("trained"), [CrossEntropy(), Divergence()]
    teacher = signal(slice(None))
    with torch.no_grad():
        total = student.fused(tokens_N, labels_N, losses, teacher)
        expected = student.plain(tokens_N, labels_N, losses, teacher)
    assert not total.requires_grad
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_autocast_multiplies_in_bf16_and_counts_in_float32(form: str) -> None:
    tokens_N, labels_N, signal = batch(form)
    losses, teacher = [CrossEntropy(), Divergence(temperature=2.0)], signal(slice(None))
    ours, theirs, exact = Student("trained"), Student("trained"), Student("trained")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ours.fused(tokens_N, labels_N, losses, teacher)
        wanted = theirs.plain(tokens_N, labels_N, losses, teacher)
    # The same logits in bf16, and after them no rounding to bf16 on either side.
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=0)
    found.backward()
    wanted.backward()
    exact.plain(tokens_N, labels_N, losses, teacher).backward()
    assert all(g.dtype == torch.float32 for g in ours.gradients())
    assert_same(ours.gradients(), exact.gradients(), 0.03)
    assert_same(ours.gradients(), theirs.gradients(), 0.03)


class Sizes(TorchDispatchMode):
    """Records numbers of elements of the tensors that operations make, by type."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: dict[torch.dtype, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, (tuple, list)) else [made]:
            if isinstance(tensor, Tensor):
                known = self.largest.get(tensor.dtype, 0)
                self.largest[tensor.dtype] = max(known, tensor.numel())
        return made


@pytest.mark.parametrize(
    ("form", "direction"), itertools.product(["dense", "sparse"], get_args(Direction))
)
def test_never_holds_all_logits_in_float32(form: str, direction: Direction) -> None:
    rows, width, vocabulary, chunk_rows = 96, 8, 600, 32
    hidden_NH = torch.randn(rows, width).bfloat16().requires_grad_()
    weight_VH = torch.randn(vocabulary, width).bfloat16().requires_grad_()
    logits_NV = torch.randn(rows, vocabulary)
    teacher = Dense(logits_NV.bfloat16()) if form == "dense" else from_logits(logits_NV, 8, [1, 2])
    labels_N = torch.randint(0, vocabulary, (rows,))
    head = LinearHead(((hidden_NH, weight_VH),), None, 0, vocabulary)
    losses = [CrossEntropy(), Divergence(direction=direction, temperature=2.0)]
    block = fused_module.BLOCK_ELEMENTS["cpu"] = 4 * vocabulary
    with Sizes() as sizes:
        total, _ = fused_sums(head, labels_N, losses, WEIGHTS, teacher, chunk_rows)
        total.backward()
    assert sizes.largest[torch.float32] <= block
    # A view of the teacher's own rows is as large as a chunk, as is the buffer.
    assert sizes.largest[torch.bfloat16] <= max(chunk_rows * vocabulary, vocabulary * width)


def test_a_loss_without_fused_form_is_refused() -> None:
    class Own(CrossEntropy):
        fused = False

    tokens_N, labels_N, signal = batch("dense")
    with pytest.raises(UsageError, match="Own has no fused form"):
        Student("trained").fused(tokens_N, labels_N, [Own()], signal(slice(None)))


def test_a_signal_that_does_not_fit_is_refused() -> None:
    tokens_N, labels_N, signal = batch("sparse")
    student = Student("trained")
    with pytest.raises(UsageError, match="30 rows, the student 31"):
        student.fused(tokens_N, labels_N, [Divergence()], signal(slice(0, 30)))
    with pytest.raises(UsageError, match="does not hold temperature 3"):
        student.fused(tokens_N, labels_N, [Divergence(temperature=3.0)], signal(slice(None)))
    wide = Dense(torch.zeros(TOKENS, VOCABULARY + 1))
    with pytest.raises(UsageError, match="51 columns, the student's 50"):
        student.fused(tokens_N, labels_N, [Divergence()], wide)
    with pytest.raises(UsageError, match="needs the teacher's distributions"):
        student.fused(tokens_N, labels_N, [Divergence()], None)
