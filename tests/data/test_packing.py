"""Packing of prompts that begin alike: what is shared, who sees whom, what is supervised."""

from __future__ import annotations

import pytest
import torch

from limbeck.data.packing import grouped, on_the_same_pictures, pack, pictures_of, whole_groups
from limbeck.data.tokens import Encoded
from limbeck.records import IGNORED, ImageFile, Sample

IMAGE = 9


def item(prompt: list[int], answer: list[int], picture: float | None = 1.0) -> Encoded:
    features = {} if picture is None else {"pixel_values": torch.full((2, 3), picture)}
    ids_L = torch.tensor([*prompt, *answer])
    kinds = {} if picture is None else {"mm_token_type_ids": (ids_L == IMAGE).int()}
    return Encoded(ids_L, len(prompt), kinds, features, prompt.count(IMAGE))


def sizes(items: list[Encoded]) -> list[tuple[int, int]]:
    return [(len(group.items), group.shared) for group in grouped(items, IMAGE)]


def sample(name: str, *pictures: str) -> Sample:
    return Sample(name, "train", (), tuple(ImageFile(f"{p}.png", p, 8, 8) for p in pictures))


def test_what_is_shared_ends_at_the_first_difference() -> None:
    one, two = item([1, IMAGE, IMAGE, 2, 3], [7]), item([1, IMAGE, IMAGE, 2, 4, 5], [8])
    assert sizes([one, two]) == [(2, 4)]
    assert sizes([one, two, item([1, IMAGE, IMAGE, 6], [8])]) == [(3, 3)]


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(item([1, IMAGE, IMAGE, 2, 4], [8], picture=0.5), id="another picture"),
        pytest.param(item([1, IMAGE, 2, 4], [8]), id="fewer visual tokens"),
        pytest.param(item([2, IMAGE, IMAGE, 2, 3], [8]), id="words before the picture"),
        pytest.param(item([1, 2, 3], [8], picture=None), id="no picture"),
    ],
)
def test_what_differs_before_the_pictures_end_is_not_shared(other: Encoded) -> None:
    one = item([1, IMAGE, IMAGE, 2, 3], [7])
    assert [count for count, _ in sizes([one, other])] == [1, 1]
    assert [count for count, _ in sizes([one, other, one])] == [1, 1, 1], "only neighbours"


def test_prompts_without_pictures_stay_apart() -> None:
    text = item([1, 2, 3], [7], picture=None)
    assert [count for count, _ in sizes([text, text])] == [1, 1]


def test_equal_prompts_each_keep_the_token_that_predicts_their_answer() -> None:
    one = item([1, IMAGE, 2], [7, 8])
    batch = pack(grouped([one, one], IMAGE), [torch.arange(5)[None]] * 2, 0)
    assert batch.inputs["input_ids"].tolist() == [[1, IMAGE, 2, 7, 8, 2, 7, 8]]
    assert batch.targets_BL.tolist() == [[-100, -100, 7, 8, -100, 7, 8, -100]]
    assert batch.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 2, 3, 4]]


def test_a_token_sees_the_beginning_and_its_own_question() -> None:
    items = [item([1, IMAGE, 2], [7]), item([1, IMAGE, 3], [8]), item([4, IMAGE, 2], [7])]
    batch = pack(grouped(items, IMAGE), [torch.arange(4)[None]] * 3, 0)
    seen = batch.inputs["attention_mask"][:, 0].int().tolist()
    assert seen[0] == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]
    assert seen[1][3] == [1, 1, 1, 1, 0, 0]
    assert seen[1][4:] == [[0, 0, 0, 0, 1, 0], [0, 0, 0, 0, 0, 1]], "padding is seen by nobody"


def test_supervised_rows_are_in_the_order_of_the_samples() -> None:
    items = [item([1, IMAGE, n], [20 + n, 40 + n], picture=n // 3) for n in (2, 3, 4, 5, 6)]
    batch = pack(grouped(items, IMAGE), [torch.arange(5)[None]] * 5, 0)
    supervised = batch.targets_BL[batch.targets_BL != IGNORED]
    assert supervised.tolist() == torch.cat([i.answer_ids for i in items]).tolist()
    assert batch.inputs["mm_token_type_ids"].sum() == 3, "one visual token a picture"
    assert batch.inputs["pixel_values"].shape == (6, 3)


def test_several_axes_of_positions_are_kept() -> None:
    items = [item([1, IMAGE, 2], [7]), item([1, IMAGE, 3], [8])]
    positions = [torch.arange(12).reshape(3, 4), torch.arange(12).reshape(3, 4)]
    batch = pack(grouped(items, IMAGE), positions, 0)
    assert batch.inputs["position_ids"].shape == (3, 1, 6)
    assert batch.inputs["position_ids"][1, 0].tolist() == [4, 5, 6, 7, 6, 7]


def test_batches_keep_one_kind_together_and_the_longest_first() -> None:
    kinds, lengths = "abacbaa", [5, 9, 5, 1, 9, 5, 5]
    batches = whole_groups(range(7), kinds.__getitem__, lengths, 3)
    assert batches == [[1, 4], [0, 2, 5], [6, 3]]
    assert whole_groups(range(7), lambda i: i, lengths, 3) == [[1, 4, 0], [2, 5, 6], [3]]


def test_samples_on_the_same_pictures_are_found_by_content() -> None:
    samples = [sample("a", "x"), sample("b"), sample("c", "y"), sample("d"), sample("e", "x")]
    assert [s.id for s in on_the_same_pictures(samples)] == ["a", "e"]
    assert on_the_same_pictures(samples[:4]) == []
    assert pictures_of(samples[0]) == pictures_of(samples[4])
    assert len({pictures_of(s) for s in samples}) == 4
