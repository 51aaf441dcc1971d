"""Shared beginnings of prompts: what runs once, and which models are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.data.samples import read_samples
from limbeck.data.tokens import Encoded
from limbeck.models.load import LoadedModel, load_model
from limbeck.models.shared_prefix import (
    NOT_ALIKE,
    training_batch,
    why_not_continued,
    why_not_packed,
)
from limbeck.models.vision_features import FEATURES, features_of, without_pixels
from limbeck.recipe.sections import ModelSection
from limbeck.records import IGNORED

QUESTIONS = ("What is on the screen?", "Which app is it?", "What is in the middle?")


@pytest.fixture
def load(tiny_model: Path) -> Callable[..., LoadedModel]:
    def make(**fields: Any) -> LoadedModel:
        loaded = load_model(ModelSection(model=str(tiny_model), **fields), device="cpu")
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in loaded.model.parameters():
                if parameter.ndim > 1:
                    noise = torch.randn(parameter.shape, generator=generator)
                    parameter.add_((0.2 * noise).to(parameter.dtype))
        return loaded

    return make


def questions(loaded: LoadedModel, data: Path, *, picture_last: bool = False) -> list[Encoded]:
    sample = read_samples(data, "train")[0]
    items: list[Encoded] = []
    for question in QUESTIONS:
        parts = [{"type": "image"}, {"type": "text", "text": question}]
        message = {"role": "user", "content": parts[::-1] if picture_last else parts}
        asked = replace(sample, messages=(message,))
        items.append(loaded.encoder.encode(asked, data, f"It is {question}"))
    return items


def hidden(loaded: LoadedModel, items: list[Encoded], share_prefix: bool) -> Tensor:
    batch = training_batch(loaded, items, share_prefix=share_prefix)
    with torch.no_grad():
        return loaded.hidden_states(batch.inputs)[batch.targets_BL != IGNORED]


def test_the_vision_tower_and_the_beginning_run_once(load: Any, screens: Path) -> None:
    loaded = load()
    items = questions(loaded, screens)
    seen: list[int] = []
    text: list[int] = []

    def note_patches(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        seen.append(len(arguments[0]))

    def note_tokens(_: nn.Module, arguments: Any, named: dict[str, Tensor]) -> None:
        text.append(named["inputs_embeds"].shape[:2].numel())

    loaded.base.base_model.visual.register_forward_pre_hook(note_patches)
    loaded.base.base_model.language_model.register_forward_pre_hook(note_tokens, with_kwargs=True)
    one_picture = len(items[0].features["pixel_values"])
    for share_prefix in (False, True):
        hidden(loaded, items, share_prefix)
        loaded.generate(items, max_new_tokens=1, share_prefix=share_prefix)
    assert seen == [3 * one_picture, 3 * one_picture, one_picture, one_picture]
    whole = 3 * max(len(item.input_ids_L) for item in items)
    assert text[0] == whole
    assert text[2] < whole - 1.9 * items[0].visual_tokens
    assert sum(text[3:]) < text[1] - 1.9 * items[0].visual_tokens


@pytest.mark.parametrize("fields", [{"attention": "eager"}, {"dtype": "bfloat16"}])
def test_other_kernels_and_precisions_share_too(
    load: Any, screens: Path, fields: dict[str, str]
) -> None:
    loaded = load(**fields)
    items = questions(loaded, screens)
    assert why_not_packed(loaded, items) is None
    assert why_not_continued(loaded, items) is None
    tolerance = 1e-5 if loaded.base.dtype == torch.float32 else 0.05
    together, apart = (hidden(loaded, items, share).float() for share in (True, False))
    largest = apart.abs().max().item()
    torch.testing.assert_close(together, apart, rtol=0, atol=tolerance * largest)


def test_cached_vision_features_are_taken_once_a_picture(load: Any, screens: Path) -> None:
    loaded = load()
    items = questions(loaded, screens)
    (features,) = features_of(loaded, items[:1])
    cached = [
        without_pixels(item, {name: rows.clone() for name, rows in features.items()})
        for item in items
    ]
    batch = training_batch(loaded, cached, share_prefix=True)
    assert batch.inputs[FEATURES].shape == features[FEATURES].shape
    together, apart = hidden(loaded, cached, True), hidden(loaded, items, False)
    torch.testing.assert_close(together, apart, rtol=0, atol=1e-5)
    answers = [loaded.generate(i, max_new_tokens=6, share_prefix=True) for i in (cached, items)]
    assert answers[0] == answers[1]


def test_a_question_before_its_picture_shares_nothing(load: Any, screens: Path) -> None:
    loaded = load()
    items = questions(loaded, screens, picture_last=True)
    assert why_not_packed(loaded, items) == NOT_ALIKE
    assert why_not_continued(loaded, items) == NOT_ALIKE
    plain = loaded.generate(items, max_new_tokens=4)
    assert loaded.generate(items, max_new_tokens=4, share_prefix=True) == plain
    assert torch.equal(hidden(loaded, items, True), hidden(loaded, items, False))


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("_attn_implementation", "flash_attention_2", "flash_attention_2 takes no table"),
        ("layer_types", ["full_attention", "sliding_attention"], "type sliding_attention"),
        ("layer_types", ["conv", "full_attention"], "type conv"),
    ],
)
def test_models_that_see_otherwise_are_refused(
    load: Any,
    screens: Path,
    monkeypatch: pytest.MonkeyPatch,
    field: str,
    value: Any,
    reason: str,
) -> None:
    loaded = load()
    items = questions(loaded, screens)
    stand_in = type("Config", (), {"_attn_implementation": "sdpa", "layer_types": None})()
    setattr(stand_in, field, value)
    monkeypatch.setattr(type(loaded.base.config), "get_text_config", lambda *_, **__: stand_in)
    for check in (why_not_packed, why_not_continued):
        assert reason in str(check(loaded, items))


def test_a_beginning_that_depends_on_the_question_is_found_out(load: Any, screens: Path) -> None:
    """As in families where a prompt's tokens see all of it."""
    loaded = load()
    items = questions(loaded, screens)

    def look_ahead(_: nn.Module, arguments: Any, named: dict[str, Any]) -> Any:
        embeds_BLH = named["inputs_embeds"]
        ahead_B1H = embeds_BLH.mean(1, keepdim=True)
        return arguments, {**named, "inputs_embeds": embeds_BLH + ahead_B1H}

    loaded.base.base_model.language_model.register_forward_pre_hook(look_ahead, with_kwargs=True)
    assert "give other hidden states" in str(why_not_packed(loaded, items))
    assert "give other logits" in str(why_not_continued(loaded, items))


def test_wrong_positions_are_found_out(
    load: Any, screens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from limbeck.models import shared_prefix

    loaded = load()
    items = questions(loaded, screens)
    real = shared_prefix.positions_of

    def counted(*arguments: Any) -> list[Tensor]:
        return [torch.arange(own.shape[1])[None].expand(3, -1) for own in real(*arguments)]

    monkeypatch.setattr(shared_prefix, "positions_of", counted)
    assert "give other hidden states" in str(why_not_packed(loaded, items))
    assert "give other logits" in str(why_not_continued(loaded, items))
