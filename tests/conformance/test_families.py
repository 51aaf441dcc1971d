"""What every family of models promises; a file in limbeck/models with a FAMILY inherits it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import nn

from limbeck.data.tokens import Encoded, collate
from limbeck.errors import DataError, UsageError
from limbeck.models.adapt import prepare_for_training
from limbeck.models.family import PARTS, family_named, family_names
from limbeck.models.load import LoadedModel, load_model
from limbeck.models.sensitivity import check_image_sensitivity
from limbeck.recipe.sections import Adapter, ModelSection
from limbeck.records import IGNORED, ImageFile, Sample

ANSWERS = ("a red square on a white wall", "two circles")


@dataclass(frozen=True)
class World:
    """A tiny checkpoint of one family, and samples whose pictures differ in size."""

    name: str
    checkpoint: Path
    data: Path
    samples: tuple[Sample, ...]

    def load(self, checkpoint: Path | None = None, **fields: object) -> LoadedModel:
        section = ModelSection(model=str(checkpoint or self.checkpoint), **fields)
        return load_model(section, device="cpu")

    def encode(self, loaded: LoadedModel, answers: bool = True) -> list[Encoded]:
        return [
            loaded.encoder.encode(sample, self.data, answer if answers else None)
            for sample, answer in zip(self.samples, ANSWERS, strict=True)
        ]


def sample_of(data: Path, name: str, sizes: list[tuple[int, int]]) -> Sample:
    files = []
    for n, size in enumerate(sizes):
        generator = torch.Generator().manual_seed(n + sum(size))
        pixels = torch.randint(0, 255, (size[1], size[0], 3), generator=generator).byte()
        Image.fromarray(pixels.numpy()).save(data / f"{name}{n}.png")
        files.append(ImageFile(f"{name}{n}.png", "", *size))
    parts = [{"type": "image"} for _ in files] + [{"type": "text", "text": "Describe the picture."}]
    return Sample(name, "train", ({"role": "user", "content": parts},), tuple(files))


@pytest.fixture(scope="session", params=family_names())
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> World:
    checkpoint = tmp_path_factory.mktemp(f"{request.param}-checkpoint")
    data = tmp_path_factory.mktemp(f"{request.param}-data")
    family_named(request.param).tiny(checkpoint)
    samples = (sample_of(data, "tall", [(96, 128)]), sample_of(data, "small", [(64, 48)]))
    made = World(request.param, checkpoint, data, samples)
    loaded = made.load()
    torch.manual_seed(0)
    with torch.no_grad():  # fresh weights are so small that every answer would be one token
        for name, parameter in loaded.model.named_parameters():
            if parameter.ndim > 1:
                strength = 0.1 if "embed_tokens" in name else 0.3
                parameter.add_(torch.randn_like(parameter) * strength)
    loaded.save(checkpoint)
    return made


@pytest.fixture(scope="session")
def loaded(world: World) -> LoadedModel:
    """For tests that change nothing of it."""
    return world.load()


def logits_of(loaded: LoadedModel, items: list[Encoded]) -> torch.Tensor:
    batch = collate(items, pad_id=loaded.encoder.pad_id, side="right")
    with torch.no_grad():
        return loaded.head(loaded.hidden_states(batch.inputs)[batch.targets_BL != IGNORED])


def weight_names(folder: Path) -> set[str]:
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            names |= set(weights.keys())
    return names


def test_the_file_name_is_the_model_type(world: World) -> None:
    config = json.loads((world.checkpoint / "config.json").read_text())
    assert config["model_type"] == world.name == family_named(world.name).model_type


def test_parts_are_found_disjoint_and_complete(loaded: LoadedModel) -> None:
    parts = {part: loaded.family.part_of(loaded.model, part) for part in PARTS}
    named = [name for names in parts.values() for name in names]
    assert len(named) == len(set(named))
    everything = {name for name, _ in loaded.model.named_parameters(remove_duplicate=False)}
    assert set(named) == everything
    assert any("layers.0." in name for name in parts["language_model"])
    assert any("layers.0." in name or "blocks.0." in name for name in parts["vision_tower"])


def test_collating_samples_equals_the_processor_s_own_batch(
    world: World, loaded: LoadedModel
) -> None:
    samples = (*world.samples, sample_of(world.data, "pair", [(80, 64), (64, 64)]))
    items = [loaded.encoder.encode(sample, world.data, None) for sample in samples]
    texts = [loaded.encoder.render(sample.messages) for sample in samples]
    pictures = [[Image.open(world.data / f.path) for f in sample.images] for sample in samples]
    for side in ("left", "right"):
        batch = collate(items, pad_id=loaded.encoder.pad_id, side=side)
        expected = loaded.processor(
            text=texts, images=pictures, padding=True, padding_side=side, return_tensors="pt"
        )
        assert set(batch.inputs) == set(expected)
        for name, tensor in expected.items():
            torch.testing.assert_close(batch.inputs[name], tensor, msg=name, rtol=0, atol=1e-6)


def test_every_picture_of_several_reaches_the_model_in_its_place(
    world: World, loaded: LoadedModel
) -> None:
    clip = sample_of(world.data, "clip", [(64, 64), (64, 64), (64, 64)])
    orders = [(0, 1, 2), (2, 1, 0), (0, 1, 1), (1, 1, 2), (0, 0, 2)]
    items = [
        loaded.encoder.encode(
            replace(clip, images=tuple(clip.images[n] for n in order)), world.data, ANSWERS[0]
        )
        for order in orders
    ]
    alone = [logits_of(loaded, [item]) for item in items]
    for changed in alone[1:]:
        assert (changed - alone[0]).abs().max() > 1e-3
    one = world.encode(loaded)[0]
    together = logits_of(loaded, [items[0], one, items[1]])
    apart = torch.cat([alone[0], logits_of(loaded, [one]), alone[1]])
    torch.testing.assert_close(together, apart, rtol=1e-3, atol=1e-3)


def test_only_answer_tokens_and_their_end_are_supervised(world: World, loaded: LoadedModel) -> None:
    items = world.encode(loaded)
    batch = collate(items, pad_id=loaded.encoder.pad_id, side="right")
    for b, (item, answer) in enumerate(zip(items, ANSWERS, strict=True)):
        row = batch.targets_BL[b]
        ids = row[row != IGNORED].tolist()
        assert ids == item.answer_ids.tolist()
        assert ids[-1] in loaded.encoder.end_ids
        assert loaded.encoder.answer_text(ids[:-1]) == answer
        assert int((row != IGNORED).nonzero()[0]) == item.answer_start - 1
    assert all(item.visual_tokens > 0 for item in items)


def test_the_head_on_hidden_states_gives_the_model_s_logits(
    world: World, loaded: LoadedModel
) -> None:
    batch = collate(world.encode(loaded), pad_id=loaded.encoder.pad_id, side="right")
    loaded.verify_head(batch)
    original = loaded.base.get_output_embeddings()
    scaled = nn.Linear(original.in_features, original.out_features, bias=False)
    scaled.weight = nn.Parameter(original.weight.detach() * 1.01)
    loaded.base.get_output_embeddings = lambda: scaled
    try:
        with pytest.raises(UsageError, match="the head of"):
            loaded.verify_head(batch)
    finally:
        del loaded.base.get_output_embeddings


def test_a_batch_answers_as_single_samples_do(world: World, loaded: LoadedModel) -> None:
    items = world.encode(loaded, answers=False)
    together = loaded.generate(items, max_new_tokens=8)
    alone = [loaded.generate([item], max_new_tokens=8)[0] for item in items]
    assert together == alone
    assert len({answer.token_ids for answer in together}) == 2, "the pictures make no difference"


def test_padding_does_not_change_logits(world: World, loaded: LoadedModel) -> None:
    items = world.encode(loaded)
    together = logits_of(loaded, items)
    alone = torch.cat([logits_of(loaded, [item]) for item in items])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)


def test_without_its_mask_a_batch_padded_on_the_right_says_the_same(
    world: World, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = collate(world.encode(loaded), pad_id=loaded.encoder.pad_id, side="right")
    real = batch.inputs["attention_mask"].bool()
    assert not real.all()
    with torch.no_grad():
        masked = loaded.base.base_model(**loaded.place(batch.inputs), use_cache=False)[0]
    forward, seen = loaded.base.base_model.forward, []

    def noting(*args: object, **inputs: object):
        seen.append(inputs.get("attention_mask"))
        return forward(*args, **inputs)

    monkeypatch.setattr(loaded.base.base_model, "forward", noting)
    with torch.no_grad():
        plain = loaded.hidden_states(batch.inputs)
    assert seen == [None], "a causal model pays for a mask that it does not need"
    torch.testing.assert_close(plain[real], masked[real], rtol=0, atol=1e-5)


def test_training_steps_lower_the_loss_and_reach_every_part(world: World) -> None:
    loaded = world.load()
    prepare_for_training(loaded, adapter=None)
    batch = collate(world.encode(loaded), pad_id=loaded.encoder.pad_id, side="right")
    before = {name: p.detach().clone() for name, p in loaded.model.named_parameters()}
    optimizer = torch.optim.Adam(loaded.model.parameters(), lr=1e-3)
    losses = []
    for _ in range(3):
        hidden_BLH = loaded.hidden_states(batch.inputs)
        rows = batch.targets_BL != IGNORED
        logits_NR = loaded.head(hidden_BLH[rows])
        loss = nn.functional.cross_entropy(logits_NR, batch.targets_BL[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[1] < losses[0]
    moved = {n for n, p in loaded.model.named_parameters() if not torch.equal(p, before[n])}
    for part in ("vision_tower", "projector", "language_model"):
        assert moved & set(loaded.family.part_of(loaded.model, part)), part


def test_blanked_pictures_move_the_answer(world: World, loaded: LoadedModel) -> None:
    assert check_image_sensitivity(loaded, world.samples[0], world.data, ANSWERS[0]) > 1e-4


def test_a_model_that_ignores_its_pictures_is_refused(world: World) -> None:
    loaded = world.load()

    def blind(module: nn.Module, args: tuple[object, ...], kwargs: dict[str, torch.Tensor]):
        return args, {**kwargs, "pixel_values": torch.ones_like(kwargs["pixel_values"])}

    loaded.model.base_model.register_forward_pre_hook(blind, with_kwargs=True)
    with pytest.raises(UsageError, match="do not reach the model"):
        check_image_sensitivity(loaded, world.samples[0], world.data, ANSWERS[0])


def test_a_saved_model_comes_back_the_same(
    world: World, loaded: LoadedModel, tmp_path: Path
) -> None:
    loaded.save(tmp_path)
    again = world.load(tmp_path)
    items = world.encode(loaded)
    again_items = world.encode(again)
    for item, other in zip(items, again_items, strict=True):
        assert torch.equal(item.input_ids_L, other.input_ids_L)
    torch.testing.assert_close(
        logits_of(again, again_items), logits_of(loaded, items), rtol=0, atol=1e-5
    )
    assert again.generate(again_items, max_new_tokens=8) == loaded.generate(items, max_new_tokens=8)
    assert weight_names(tmp_path) == weight_names(world.checkpoint)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_merged_adapters_answer_as_the_adapted_model(
    world: World, kind: str, tmp_path: Path
) -> None:
    loaded = world.load()
    adapter = Adapter(kind=kind, rank=2, parts=("language_model", "projector"))
    summary = prepare_for_training(loaded, adapter=adapter)
    assert 0 < summary["trainable_parameters"] < summary["total_parameters"] / 2
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    loaded.model.eval()
    items = world.encode(loaded)
    adapted = logits_of(loaded, items)
    loaded.save(tmp_path)
    assert torch.equal(logits_of(loaded, items), adapted), "saving must not touch the model"
    assert weight_names(tmp_path) == weight_names(world.checkpoint)
    merged = logits_of(world.load(tmp_path), items)
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-5)
    plain = logits_of(world.load(), items)
    assert (plain - adapted).abs().max() > 1e-3, "the adapter did nothing"


def test_checkpointed_activations_give_the_same_gradients(world: World) -> None:
    gradients = []
    for checkpointing in (False, True):
        loaded = world.load()
        torch.manual_seed(1)
        prepare_for_training(loaded, adapter=Adapter(rank=2), gradient_checkpointing=checkpointing)
        assert loaded.base.is_activation_checkpointing == checkpointing
        batch = collate(world.encode(loaded), pad_id=loaded.encoder.pad_id, side="right")
        rows = batch.targets_BL != IGNORED
        logits_NR = loaded.head(loaded.hidden_states(batch.inputs)[rows])
        nn.functional.cross_entropy(logits_NR, batch.targets_BL[rows]).backward()
        gradients.append({n: p.grad for n, p in loaded.model.named_parameters() if p.requires_grad})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, msg=name)


def test_a_sample_that_does_not_fit_the_context_is_refused(world: World) -> None:
    loaded = world.load(context_tokens=20)
    with pytest.raises(DataError, match=r"tall: .* of them visual, .* holds 20"):
        loaded.encoder.encode(world.samples[0], world.data, ANSWERS[0])
