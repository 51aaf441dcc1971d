"""Laws that every loss on inner states inherits by being a file in limbeck/losses."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, get_args, get_origin

import pytest
import torch
from torch import Tensor, nn

from limbeck.losses.feature_loss import FeatureLoss, Pair
from limbeck.recipe.component import component_class, component_names
from limbeck.records import AnswerSize, Features, Grid, ModelShape, StudentView, Tap

PACKAGE = "limbeck.losses"
STUDENT, TEACHER = ModelShape(3, 6, 5), ModelShape(4, 9, 7)
ANSWERS = (3, 5, 2, 4)
GRIDS: tuple[tuple[Grid, ...], ...] = (((1, 2, 3),), ((1, 4, 2), (1, 2, 2)), (), ((2, 2, 2),))
TEACHER_GRIDS: tuple[tuple[Grid, ...], ...] = (
    ((1, 4, 5),),
    ((1, 3, 3), (1, 4, 4)),
    (),
    ((2, 3, 4),),
)


def variants() -> list[FeatureLoss]:
    found: list[FeatureLoss] = []
    for name in component_names(PACKAGE):
        cls = component_class(PACKAGE, name)
        if not issubclass(cls, FeatureLoss) or cls.needs_verbalisers:
            continue  # what layers say has tests of its own
        words: dict[str, Sequence[Any]] = {
            field: get_args(info.annotation)
            for field, info in cls.model_fields.items()
            if get_origin(info.annotation) is Literal and field not in ("kind", "target")
        }
        if "layers" in cls.model_fields:
            words["layers"] = ("last", "every", ((0, 1), (2, -1)))
        found += [
            cls(**dict(zip(words, choice, strict=True)))
            for choice in itertools.product(*words.values())
        ]
    return found


def label(loss: FeatureLoss) -> str:
    fields = loss.model_dump()
    return "-".join(str(v) for k, v in fields.items() if k not in ("target", "weight"))


every_loss = pytest.mark.parametrize("loss", variants(), ids=label)


def size(at: int, grids: tuple[tuple[Grid, ...], ...]) -> int:
    return sum(t * h * w for t, h, w in grids[at])


def features(
    loss: FeatureLoss,
    pairs: list[Pair],
    side: int,
    seed: int,
    chosen: Sequence[int] = (0, 1, 2, 3),
    *,
    same_shape: bool = False,
) -> Features:
    """Random states of one side of the pairs, for some of four samples."""
    shape = TEACHER if side and not same_shape else STUDENT
    grids = TEACHER_GRIDS if side and not same_shape and not _in_tower(pairs) else GRIDS
    tensors: dict[Tap, tuple[Tensor, ...]] = {}
    for tap in {pair[side] for pair in pairs}:
        states = []
        for at in range(4):
            generator = torch.Generator().manual_seed(seed + 10 * at + tap.layer)
            width = shape.width(tap)
            if tap.kind == "hidden":
                rows = ANSWERS[at]
            elif tap.kind == "vision":
                rows = size(at, grids)
            else:
                rows, width = ANSWERS[at], size(at, grids) if tap.place == "vision" else 8 + at
            made = torch.randn(rows, width, generator=generator, dtype=torch.float64)
            states.append(made.softmax(-1) if tap.kind == "attention" else made)
        tensors[tap] = tuple(states[at] for at in chosen)
    return Features(tensors, tuple(grids[at] for at in chosen))


def _in_tower(pairs: list[Pair]) -> bool:
    return any(tap.place == "tower" for pair in pairs for tap in pair)


def view(found: Features) -> StudentView:
    """A student of which a loss looks at inner states only."""
    nothing = torch.zeros(0)
    return StudentView(nothing, nothing, lambda hidden: hidden, found)


def setup(loss: FeatureLoss) -> tuple[list[Pair], nn.Module | None]:
    torch.manual_seed(0)
    projector = loss.projector(STUDENT, TEACHER)
    return loss.pairs(STUDENT, TEACHER), projector.double() if projector else None


def trainable(found: Features) -> list[Tensor]:
    return [state.requires_grad_() for states in found.tensors.values() for state in states]


@every_loss
def test_equal_states_have_no_distance_and_no_gradient(loss: FeatureLoss) -> None:
    pairs = [(own, own) for own, _ in loss.pairs(STUDENT, STUDENT)]
    own = features(loss, pairs, 0, seed=1)
    term = loss.compare(view(own), features(loss, pairs, 0, seed=1), pairs, None)
    assert abs(term.sum) < 1e-12
    leaves = trainable(own)
    term = loss.compare(view(own), features(loss, pairs, 0, seed=1), pairs, None)
    for gradient in torch.autograd.grad(term.sum, leaves, allow_unused=True):
        assert gradient is None or not gradient.numel() or gradient.abs().max() < 1e-6


@every_loss
def test_other_states_have_a_distance_and_a_gradient_that_is_that_of_the_value(
    loss: FeatureLoss,
) -> None:
    pairs, projector = setup(loss)
    own, theirs = features(loss, pairs, 0, seed=1), features(loss, pairs, 1, seed=2)
    assert loss.compare(view(own), theirs, pairs, projector).sum > 1e-6
    taps = list(own.tensors)
    leaves = [own.tensors[tap][1].clone().requires_grad_() for tap in taps]

    def of_second_sample(*moved: Tensor) -> Tensor:
        tensors = {
            tap: (states[0], moved[taps.index(tap)], *states[2:])
            for tap, states in own.tensors.items()
        }
        return loss.compare(view(Features(tensors, own.grids)), theirs, pairs, projector).sum

    assert torch.autograd.gradcheck(of_second_sample, leaves)


@every_loss
def test_the_teacher_gets_no_gradient(loss: FeatureLoss) -> None:
    pairs, projector = setup(loss)
    own, theirs = features(loss, pairs, 0, seed=1), features(loss, pairs, 1, seed=2)
    trainable(own)
    leaves = trainable(theirs)
    total = loss.compare(view(own), theirs, pairs, projector).sum
    assert all(g is None for g in torch.autograd.grad(total, leaves, allow_unused=True))


@every_loss
def test_the_count_is_what_count_of_says(loss: FeatureLoss) -> None:
    pairs, projector = setup(loss)
    term = loss.compare(
        view(features(loss, pairs, 0, seed=1)), features(loss, pairs, 1, seed=2), pairs, projector
    )
    sizes = [AnswerSize(n, n, 1, 1 if GRIDS[at] else 0) for at, n in enumerate(ANSWERS)]
    assert term.count == sum(map(loss.count_of, sizes))


@every_loss
def test_splitting_a_batch_changes_nothing(loss: FeatureLoss) -> None:
    if getattr(loss, "between", None) == "samples":
        pytest.skip("relates the samples of a micro-batch, as its page says")
    pairs, projector = setup(loss)

    def total(*parts: Sequence[int]) -> Tensor:
        found = [
            loss.compare(
                view(features(loss, pairs, 0, 1, part)),
                features(loss, pairs, 1, 2, part),
                pairs,
                projector,
            ).sum
            for part in parts
        ]
        return torch.stack(found).sum()

    whole = total((0, 1, 2, 3))
    assert torch.allclose(whole, total((0,), (1, 2, 3)), rtol=1e-12)
    assert torch.allclose(whole, total((3,), (1,), (0,), (2,)), rtol=1e-12)


@every_loss
def test_samples_without_pictures_are_fine_and_keep_a_graph(loss: FeatureLoss) -> None:
    pairs, projector = setup(loss)
    own = features(loss, pairs, 0, 1, (2, 2))
    trainable(own)
    term = loss.compare(view(own), features(loss, pairs, 1, 2, (2, 2)), pairs, projector)
    assert term.sum.isfinite()
    assert term.sum.requires_grad


@every_loss
def test_half_precision_states_give_a_finite_value(loss: FeatureLoss) -> None:
    pairs, projector = setup(loss)

    def half(found: Features) -> Features:
        tensors = {
            tap: tuple(s.bfloat16() for s in states) for tap, states in found.tensors.items()
        }
        return Features(tensors, found.grids)

    own, theirs = (half(features(loss, pairs, side, seed=side)) for side in (0, 1))
    in_half = projector.bfloat16() if projector else None
    assert loss.compare(view(own), theirs, pairs, in_half).sum.isfinite()


@every_loss
def test_layers_that_are_not_there_are_refused(loss: FeatureLoss) -> None:
    if "layers" not in type(loss).model_fields:
        pytest.skip("has no layers to choose")
    wrong = loss.model_copy(update={"layers": ((0, 4),)})
    with pytest.raises(ValueError, match="teacher has no layer 4"):
        wrong.pairs(STUDENT, TEACHER)
