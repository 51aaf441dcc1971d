"""Questions on one picture that share its computation; every family of models inherits these."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from test_families import World, loaded, sample_of, world  # noqa: F401 (fixtures)
from torch import Tensor

from limbeck.data.packing import grouped
from limbeck.data.tokens import Encoded
from limbeck.models.adapt import prepare_for_training
from limbeck.models.load import LoadedModel
from limbeck.models.shared_prefix import training_batch, why_not_continued, why_not_packed
from limbeck.recipe.sections import Adapter
from limbeck.records import IGNORED, Sample

REFUSED: dict[str, str] = {}
"""Families that cannot share a prompt's beginning, with a part of the reason that is given."""

ANSWER = "a red square on the left"
Encode = Callable[..., list[Encoded]]


def asking(sample: Sample, question: str) -> Sample:
    parts = [part for part in sample.messages[0]["content"] if part["type"] == "image"]
    content = [*parts, {"type": "text", "text": question}]
    message = {"role": "user", "content": content}
    return replace(sample, id=f"{sample.id} {question}", messages=(message,))


@pytest.fixture
def mixed(world: World, loaded: LoadedModel) -> Encode:  # noqa: F811
    """Three questions on one picture, a picture alone, no picture, two questions on a pair."""
    if world.name in REFUSED:
        pytest.skip(f"{world.name} is refused")
    tall = sample_of(world.data, "tall", [(96, 128)])
    small = sample_of(world.data, "small", [(64, 48)])
    pair = sample_of(world.data, "pair", [(80, 64), (64, 64)])
    none = sample_of(world.data, "none", [])

    def encode(
        second: str = "two circles", on: Sample = tall, answers: bool = True
    ) -> list[Encoded]:
        samples = [
            asking(on, "Describe the picture."),
            asking(on, second),
            asking(on, "a green square on the left and one on a dark ground"),
            small,
            asking(none, "a white wall"),
            asking(pair, "a wall"),
            asking(pair, "a wall and a square"),
        ]
        return [
            loaded.encoder.encode(s, world.data, ANSWER[: 4 + 3 * n] if answers else None)
            for n, s in enumerate(samples)
        ]

    return encode


def hidden(model: LoadedModel, items: list[Encoded], share_prefix: bool = True) -> list[Tensor]:
    """Of every sample, what the head reads on its supervised rows."""
    batch = training_batch(model, items, share_prefix=share_prefix)
    rows_NH = model.hidden_states(batch.inputs)[batch.targets_BL != IGNORED]
    return list(rows_NH.split([len(item.answer_ids) for item in items]))


def test_a_family_shares_or_says_why_not(world: World, loaded: LoadedModel) -> None:  # noqa: F811
    questions = [asking(world.samples[0], text) for text in ("a wall", "two circles on a wall")]
    items = [loaded.encoder.encode(s, world.data, ANSWER) for s in questions]
    reasons = [check(loaded, items) for check in (why_not_packed, why_not_continued)]
    if world.name in REFUSED:
        assert all(REFUSED[world.name] in str(reason) for reason in reasons)
    else:
        assert reasons == [None, None]


def test_mixed_groups_have_the_hidden_states_of_samples_apart(
    mixed: Encode,
    loaded: LoadedModel,  # noqa: F811
) -> None:
    items = mixed()
    groups = grouped(items, loaded.encoder.image_token_id)
    assert [len(group.items) for group in groups] == [3, 1, 1, 2]
    with torch.no_grad():
        together = hidden(loaded, items)
        for own, item in zip(together, items, strict=True):
            (alone,) = hidden(loaded, [item])
            torch.testing.assert_close(own, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("options", [{}, {"gradient_checkpointing": True, "adapter": True}])
def test_mixed_groups_have_the_gradients_of_samples_apart(
    world: World,  # noqa: F811
    mixed: Encode,
    options: dict[str, bool],
) -> None:
    gradients: list[dict[str, Tensor]] = []
    for share_prefix in (False, True):
        model = world.load()
        torch.manual_seed(1)
        adapter = Adapter(rank=2) if options.get("adapter") else None
        prepare_for_training(
            model,
            adapter=adapter,
            gradient_checkpointing=options.get("gradient_checkpointing", False),
        )
        rows_NH = torch.cat(hidden(model, mixed(), share_prefix))
        weights = torch.linspace(-1, 1, rows_NH.numel()).reshape(rows_NH.shape)
        (rows_NH * weights).sum().backward()
        named = model.model.named_parameters()
        gradients.append({n: p.grad for n, p in named if p.grad is not None})
    apart, shared = gradients
    assert shared.keys() == apart.keys()
    norm = torch.stack([g.norm() for g in apart.values()]).norm()
    difference = torch.stack([(shared[n] - apart[n]).norm() for n in apart]).norm()
    assert difference <= 1e-5 * norm


def test_a_question_does_not_see_the_others(mixed: Encode, loaded: LoadedModel) -> None:  # noqa: F811
    with torch.no_grad():
        before, after = hidden(loaded, mixed()), hidden(loaded, mixed(second="one white wall"))
    for n, (own, then) in enumerate(zip(before, after, strict=True)):
        if n == 1:
            assert (own - then).abs().max() > 1e-3
        else:
            torch.testing.assert_close(own, then, rtol=0, atol=2e-6)


def test_another_picture_changes_every_question_on_it(
    mixed: Encode,
    world: World,  # noqa: F811
    loaded: LoadedModel,  # noqa: F811
    tmp_path: Path,
) -> None:
    Image.new("RGB", (96, 128), (250, 10, 10)).save(world.data / "red0.png")
    tall = sample_of(world.data, "tall", [(96, 128)])
    red = replace(tall, images=(replace(tall.images[0], path="red0.png"),))
    with torch.no_grad():
        before, after = hidden(loaded, mixed()), hidden(loaded, mixed(on=red))
    moved = [(a - b).abs().max().item() for a, b in zip(before, after, strict=True)]
    assert min(moved[:3]) > 1e-4
    assert max(moved[3:]) < 2e-6


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_those_to_whole_prompts(
    mixed: Encode,
    loaded: LoadedModel,  # noqa: F811
    temperature: float,
) -> None:
    items = mixed(answers=False)
    options = {"max_new_tokens": 12, "temperature": temperature, "seed": 3}
    expected = loaded.generate(items, **options)
    assert loaded.generate(items, share_prefix=True, **options) == expected
    assert len({answer.token_ids for answer in expected[:3]}) > 1, "questions make no difference"
