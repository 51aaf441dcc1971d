"""Feature losses against numbers worked out by hand, and patterns whose resampling is known."""

from __future__ import annotations

import math

import pytest
import torch

from limbeck.losses.attention_transfer import AttentionTransfer
from limbeck.losses.feature_loss import layer_pairs
from limbeck.losses.hidden_states import HiddenStates
from limbeck.losses.relational import Relational
from limbeck.losses.resampling import resampled
from limbeck.losses.vision_features import VisionFeatures
from limbeck.records import Features, Grid, ModelShape, StudentView, Tap

EQUAL = ModelShape(2, 2, 2)
HIDDEN, VISION = Tap("hidden", 1), Tap("vision", place="projector")


def view(found: Features) -> StudentView:
    """A student of which a loss looks at inner states only."""
    nothing = torch.zeros(0)
    return StudentView(nothing, nothing, lambda hidden: hidden, found)


def plane(grid: Grid) -> torch.Tensor:
    """A pattern that is linear in height and width, sampled at the tokens' centres."""
    t, h, w = grid
    rows = (torch.arange(h, dtype=torch.float64) + 0.5) / h
    columns = (torch.arange(w, dtype=torch.float64) + 0.5) / w
    values = 3 * rows[:, None] - 2 * columns[None] + 1
    return values.expand(t, h, w).reshape(-1, 1)


@pytest.mark.parametrize(("grid", "wanted"), [((1, 8, 8), (1, 4, 4)), ((1, 9, 6), (1, 3, 2))])
def test_a_linear_pattern_is_resampled_exactly(grid: Grid, wanted: Grid) -> None:
    found = resampled(plane(grid), (grid,), (wanted,), math.prod(wanted))
    assert torch.allclose(found, plane(wanted), atol=1e-12)


def test_a_finer_grid_of_a_linear_pattern_is_exact_between_the_outermost_centres() -> None:
    found = resampled(plane((1, 4, 4)), ((1, 4, 4),), ((1, 8, 8),), 64).reshape(8, 8)
    expected = plane((1, 8, 8)).reshape(8, 8)
    assert torch.allclose(found[1:-1, 1:-1], expected[1:-1, 1:-1], atol=1e-12)


def test_two_pictures_are_resampled_each_on_its_own() -> None:
    grids, wanted = ((1, 4, 4), (1, 6, 2)), ((1, 2, 2), (1, 3, 1))
    both = torch.cat([plane(grids[0]), 100 + plane(grids[1])])
    found = resampled(both, grids, wanted, 7)
    assert torch.allclose(found[:4], plane(wanted[0]))
    assert torch.allclose(found[4:], 100 + plane(wanted[1]))


def test_unknown_grids_of_other_sizes_and_other_numbers_of_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="grid of one of them is not known"):
        resampled(torch.zeros(4, 1), None, ((1, 3, 3),), 9)
    with pytest.raises(ValueError, match="teacher sees 1 pictures or tiles and the student 2"):
        resampled(torch.zeros(4, 1), ((1, 2, 2),), ((1, 1, 1), (1, 1, 1)), 2)
    assert len(resampled(torch.zeros(4, 1), None, None, 4)) == 4


def test_vision_features_of_a_teacher_with_a_finer_grid() -> None:
    """The student already has the pattern that the teacher's becomes on its grid, plus 2."""
    own = Features({VISION: ((plane((1, 2, 2)) + 2).repeat(1, 2),)}, (((1, 2, 2),),))
    theirs = Features({VISION: (plane((1, 4, 4)).repeat(1, 2),)}, (((1, 4, 4),),))
    loss = VisionFeatures(measure="mse")
    term = loss.compare(view(own), theirs, loss.pairs(EQUAL, EQUAL), None)
    assert term.sum.item() == pytest.approx(4.0)
    assert term.count == 1


def test_hidden_states_by_hand() -> None:
    own = Features({HIDDEN: (torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]]))}, (None, None))
    theirs = Features(
        {HIDDEN: (torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 0.0]]))}, (None, None)
    )
    pairs = [(HIDDEN, HIDDEN)]
    assert HiddenStates(measure="mse").compare(view(own), theirs, pairs, None).sum == 0.5 + 2.5
    aligned = Features(
        {HIDDEN: (torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 1.0]]))}, (None, None)
    )
    towards = Features(
        {HIDDEN: (torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0]]))}, (None, None)
    )
    cosine = HiddenStates().compare(view(aligned), towards, pairs, None)
    assert cosine.sum.item() == pytest.approx(1 - math.sqrt(0.5), abs=1e-6)
    assert cosine.count == 2


def test_attention_by_hand() -> None:
    tap = Tap("attention", 1, "text")
    own = Features({tap: (torch.tensor([[0.2, 0.2]]),)}, (None,))
    theirs = Features({tap: (torch.tensor([[0.3, 0.1]]),)}, (None,))
    pairs = [(tap, tap)]
    kl = AttentionTransfer(keys="text").compare(view(own), theirs, pairs, None).sum.item()
    expected = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert kl == pytest.approx(expected, abs=1e-6), "rows are made to sum to 1 over the block"
    mse = AttentionTransfer(keys="text", measure="mse").compare(view(own), theirs, pairs, None).sum
    assert mse.item() == pytest.approx(2 * 0.25**2, abs=1e-6)


def test_attention_of_a_finer_grid_is_resampled_before_it_is_compared() -> None:
    tap = Tap("attention", 1, "vision")
    own = Features({tap: (plane((1, 2, 2)).T + 2,)}, (((1, 2, 2),),))
    theirs = Features({tap: (plane((1, 4, 4)).T + 2,)}, (((1, 4, 4),),))
    term = AttentionTransfer().compare(view(own), theirs, [(tap, tap)], None)
    assert abs(term.sum.item()) < 1e-12


def test_relations_do_not_see_size_place_or_direction() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))
    own, theirs = (
        Features({VISION: (t,)}, (((1, 2, 3),),)) for t in (3 * states @ rotation + 5, states)
    )
    for relation in ("distance", "angle"):
        loss = Relational(relation=relation)
        assert abs(loss.compare(view(own), theirs, [(VISION, VISION)], None).sum) < 1e-12
    turned = Features({VISION: (3 * states @ rotation,)}, (((1, 2, 3),),))
    assert abs(Relational().compare(view(turned), theirs, [(VISION, VISION)], None).sum) < 1e-12


def test_distance_relation_by_hand() -> None:
    """Teacher's distances 1, 1, 2 and the student's 1, 2, 3, over their means 4/3 and 2."""
    own = Features({VISION: (torch.tensor([[0.0], [1.0], [3.0]]),)}, (((1, 1, 3),),))
    theirs = Features({VISION: (torch.tensor([[0.0], [1.0], [2.0]]),)}, (((1, 1, 3),),))
    loss = Relational(relation="distance").compare(view(own), theirs, [(VISION, VISION)], None)
    differences = [1 / 2 - 3 / 4, 2 / 2 - 3 / 4, 3 / 2 - 3 / 2]
    expected = sum(0.5 * d * d for d in differences) / 3
    assert loss.sum.item() == pytest.approx(expected, abs=1e-6)


def test_angles_of_too_many_states_are_refused() -> None:
    many = Features({VISION: (torch.zeros(200, 2),)}, (((1, 10, 20),),))
    with pytest.raises(ValueError, match="too many triples"):
        Relational(relation="angle").compare(view(many), many, [(VISION, VISION)], None)


@pytest.mark.parametrize(
    ("layers", "student", "teacher", "expected"),
    [
        ("last", 3, 9, [(2, 8)]),
        ("every", 2, 8, [(0, 3), (1, 7)]),
        ("every", 3, 28, [(0, 8), (1, 18), (2, 27)]),
        (((0, -1), (-1, 3)), 4, 6, [(0, 5), (3, 3)]),
    ],
)
def test_layers_are_paired(
    layers: object, student: int, teacher: int, expected: list[tuple[int, int]]
) -> None:
    assert layer_pairs(layers, student, teacher) == expected  # type: ignore[arg-type]
