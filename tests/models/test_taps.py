"""Taps read what a model computes, with its graph, and leave nothing behind; for every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from limbeck.data.tokens import Batch, collate
from limbeck.errors import UsageError
from limbeck.models.adapt import prepare_for_training
from limbeck.models.family import family_named, family_names
from limbeck.models.layers import layers_of
from limbeck.models.load import LoadedModel, load_model
from limbeck.models.taps import shape_of, tapped
from limbeck.recipe.sections import Adapter, ModelSection
from limbeck.records import IGNORED, Features, ImageFile, Sample, Tap

HIDDEN, LAST = Tap("hidden", 0), Tap("hidden", 1)
LOOKS, READS = Tap("attention", 1, "vision"), Tap("attention", 1, "text")
SEEN, TOWER = Tap("vision", place="projector"), Tap("vision", place="tower")


@pytest.fixture(scope="module", params=family_names())
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp(request.param)
    return family_named(request.param).tiny(made)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_named("qwen2_vl").tiny(tmp_path_factory.mktemp("qwen"))


def load(folder: Path, attention: str = "eager") -> LoadedModel:
    return load_model(ModelSection(model=str(folder), attention=attention), device="cpu")


def samples(folder: Path) -> list[Sample]:
    made = []
    for number, size in enumerate(((96, 128), (64, 48), (96, 96))):
        generator = torch.Generator().manual_seed(number)
        pixels = torch.randint(0, 255, (size[1], size[0], 3), generator=generator).byte()
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
        images = (ImageFile(f"{number}.png", "", *size),) if number != 1 else ()
        parts = [*({"type": "image"} for _ in images), {"type": "text", "text": "Describe it."}]
        made.append(Sample(str(number), "train", ({"role": "user", "content": parts},), images))
    return made


def batch_of(loaded: LoadedModel, folder: Path, chosen: tuple[int, ...] = (0, 1, 2)) -> Batch:
    every = samples(folder)
    items = [loaded.encoder.encode(every[i], folder, "a red square") for i in chosen]
    return collate(items, pad_id=loaded.encoder.pad_id, side="right")


def read(loaded: LoadedModel, batch: Batch, *taps: Tap) -> Features:
    with tapped(loaded, taps) as seen:
        loaded.hidden_states(batch.inputs)
    return seen.features(batch.inputs, batch.targets_BL)


def test_a_batch_gives_each_sample_what_it_gives_alone(folder: Path, tmp_path: Path) -> None:
    loaded = load(folder)
    taps = (HIDDEN, LAST, LOOKS, READS, SEEN)
    with torch.no_grad():
        together = read(loaded, batch_of(loaded, tmp_path), *taps)
        for number in range(3):
            alone = read(loaded, batch_of(loaded, tmp_path, (number,)), *taps)
            assert alone.grids[0] == together.grids[number]
            for tap in taps:
                one, other = alone.tensors[tap][0], together.tensors[tap][number]
                assert one.shape == other.shape, tap
                assert torch.allclose(one, other, atol=1e-5), tap


def test_hidden_states_are_those_of_transformers(folder: Path, tmp_path: Path) -> None:
    loaded = load(folder)
    batch = batch_of(loaded, tmp_path)
    rows_BL = batch.targets_BL != IGNORED
    with torch.no_grad():
        found = read(loaded, batch, HIDDEN)
        states = loaded.base.base_model(
            **loaded.place(batch.inputs), use_cache=False, output_hidden_states=True
        ).hidden_states
    # The first is what goes into layer 0. Qwen3-VL adds features of the tower after a layer.
    expected = states[1][rows_BL]
    assert torch.allclose(torch.cat(found.tensors[HIDDEN]), expected, atol=1e-6)


def test_attention_rows_are_weights_and_see_both_blocks(folder: Path, tmp_path: Path) -> None:
    loaded = load(folder)
    batch = batch_of(loaded, tmp_path)
    with torch.no_grad():
        found = read(loaded, batch, LOOKS, READS)
    tokens = (batch.targets_BL != IGNORED).sum(-1).tolist()
    for number, (looks, reads) in enumerate(
        zip(found.tensors[LOOKS], found.tensors[READS], strict=True)
    ):
        assert len(looks) == len(reads) == tokens[number]
        assert torch.allclose(looks.sum(-1) + reads.sum(-1), torch.ones(len(looks)), atol=1e-5)
    assert not found.tensors[LOOKS][1].shape[1], "the second sample has no picture"


def test_grids_hold_the_visual_tokens(folder: Path, tmp_path: Path) -> None:
    loaded = load(folder)
    found = read(loaded, batch_of(loaded, tmp_path), SEEN)
    for grids, seen in zip(found.grids, found.tensors[SEEN], strict=True):
        if grids is not None:
            assert sum(t * h * w for t, h, w in grids) == len(seen)
    known = {"qwen2_vl", "qwen2_5_vl", "qwen3_vl", "llava", "idefics3", "smolvlm"}
    assert (found.grids[0] is not None) == (loaded.family.model_type in known)


def test_the_projector_makes_what_is_seen_of_what_the_tower_gives(
    qwen: Path, tmp_path: Path
) -> None:
    loaded = load(qwen)
    with torch.no_grad():
        found = read(loaded, batch_of(loaded, tmp_path), SEEN, TOWER)
        for tower, seen in zip(found.tensors[TOWER], found.tensors[SEEN], strict=True):
            if len(seen):
                assert torch.allclose(loaded.base.model.visual.merger(tower), seen, atol=1e-6)
    shape = shape_of(loaded.base.config)
    assert found.tensors[TOWER][0].shape[1] == shape.width(TOWER)
    assert found.tensors[SEEN][0].shape[1] == shape.width(SEEN)


@pytest.mark.parametrize("adapter", [None, Adapter(rank=2)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_flow_through_taps_as_without_checkpointing(
    folder: Path, tmp_path: Path, adapter: Adapter | None, checkpointing: bool
) -> None:
    def gradients(checkpointing: bool) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        loaded = load(folder)
        prepare_for_training(loaded, adapter=adapter, gradient_checkpointing=checkpointing)
        if adapter:  # B starts at 0, and A then has no gradient
            with torch.no_grad():
                for name, parameter in loaded.model.named_parameters():
                    if "lora_B" in name:
                        parameter.fill_(0.01)
        found = read(loaded, batch_of(loaded, tmp_path), HIDDEN, LOOKS, SEEN)
        total = sum(state.float().square().sum() for s in found.tensors.values() for state in s)
        total.backward()
        named = loaded.model.named_parameters()
        return {n: p.grad for n, p in named if p.grad is not None}

    plain = gradients(False)
    assert plain
    assert any("layers.0" in name for name in plain)
    found = gradients(checkpointing)
    assert found.keys() == plain.keys()
    for name, gradient in found.items():
        assert torch.allclose(gradient, plain[name], rtol=1e-4, atol=1e-6), name


def count_hooks(loaded: LoadedModel) -> int:
    modules = list(loaded.base.modules())
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)


def test_nothing_is_left_behind(folder: Path, tmp_path: Path) -> None:
    loaded = load(folder)
    loaded.hidden_states(batch_of(loaded, tmp_path).inputs)  # transformers leaves hooks of its own
    keys, hooks = list(loaded.base.state_dict()), count_hooks(loaded)
    with pytest.raises(RuntimeError, match="in between"), tapped(loaded, [HIDDEN, LOOKS, SEEN]):
        raise RuntimeError("in between")
    read(loaded, batch_of(loaded, tmp_path), HIDDEN, LOOKS, SEEN)
    assert list(loaded.base.state_dict()) == keys
    assert count_hooks(loaded) == hooks


def test_what_cannot_be_read_is_refused(qwen: Path, tmp_path: Path) -> None:
    loaded = load(qwen, "sdpa")
    with pytest.raises(UsageError, match="attention: eager"), tapped(loaded, [LOOKS]):
        pass
    with pytest.raises(UsageError, match="has 2 layers"), tapped(loaded, [Tap("hidden", 2)]):
        pass
    path, layers = layers_of(loaded.family, loaded.base, "language_model")
    assert (path, len(layers)) == (
        "model.language_model.layers",
        shape_of(loaded.base.config).layers,
    )
