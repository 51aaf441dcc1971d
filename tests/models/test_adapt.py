"""What is trained: adapters, parts, tied weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from limbeck.data.tokens import collate
from limbeck.errors import UsageError
from limbeck.models.adapt import prepare_for_training
from limbeck.models.family import family_named
from limbeck.models.load import LoadedModel, load_model
from limbeck.models.sensitivity import check_image_sensitivity
from limbeck.recipe.sections import Adapter, ModelSection
from limbeck.records import ImageFile, Sample


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_named("qwen2_vl").tiny(tmp_path_factory.mktemp("qwen2_vl"))


@pytest.fixture(scope="module")
def untied(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with a head of its own."""
    import transformers

    folder = tmp_path_factory.mktemp("untied")
    config = transformers.AutoConfig.from_pretrained(checkpoint)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    transformers.AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    transformers.AutoProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


def load(folder: Path, **fields: Any) -> LoadedModel:
    return load_model(ModelSection(model=str(folder), **fields), device="cpu")


def trained(loaded: LoadedModel) -> set[str]:
    return {name for name, p in loaded.model.named_parameters() if p.requires_grad}


def test_everything_is_trained_unless_frozen(checkpoint: Path) -> None:
    loaded = load(checkpoint)
    summary = prepare_for_training(loaded, adapter=None)
    assert summary["trainable_parameters"] == summary["total_parameters"]
    assert loaded.model.training
    frozen = load(checkpoint)
    counts = prepare_for_training(frozen, adapter=None, freeze=("vision_tower",))
    tower = set(frozen.family.part_of(frozen.model, "vision_tower"))
    assert trained(frozen) == trained(loaded) - tower
    assert any("merger" in name for name in trained(frozen)), "the projector is not the tower"
    assert counts["total_parameters"] == summary["total_parameters"]
    assert counts["trainable_parameters"] == sum(
        p.numel() for p in frozen.model.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("freeze", [("head",), ("language_model",), ("head", "vision_tower")])
def test_half_of_a_tied_weight_cannot_be_frozen(checkpoint: Path, freeze: Any) -> None:
    with pytest.raises(UsageError, match=r"freeze: .*one weight"):
        prepare_for_training(load(checkpoint), adapter=None, freeze=freeze)


def test_a_tied_weight_is_frozen_as_a_whole(checkpoint: Path) -> None:
    loaded = load(checkpoint)
    prepare_for_training(loaded, adapter=None, freeze=("language_model", "head"))
    assert all(name.startswith("model.visual") for name in trained(loaded))


def test_an_untied_head_is_frozen_alone(untied: Path) -> None:
    loaded = load(untied)
    prepare_for_training(loaded, adapter=None, freeze=("head",))
    everything = {name for name, _ in loaded.model.named_parameters()}
    assert everything - trained(loaded) == {"lm_head.weight"}


def test_freezing_every_part_is_refused(untied: Path) -> None:
    parts: Any = ("vision_tower", "projector", "language_model", "head")
    with pytest.raises(UsageError, match="nothing is left to train"):
        prepare_for_training(load(untied), adapter=None, freeze=parts)


@pytest.mark.parametrize(
    ("adapter", "inside", "outside"),
    [
        (Adapter(rank=2), "language_model.layers", "visual"),
        (Adapter(rank=2, parts=("vision_tower",)), "visual.blocks", "language_model"),
        (Adapter(rank=2, parts=("projector",)), "merger.mlp", "blocks"),
        (Adapter(rank=2, targets=("q_proj", "v_proj")), "self_attn", "mlp"),
    ],
)
def test_an_adapter_goes_where_it_was_asked_for(
    checkpoint: Path, adapter: Adapter, inside: str, outside: str
) -> None:
    loaded = load(checkpoint)
    prepare_for_training(loaded, adapter=adapter)
    names = trained(loaded)
    assert names
    assert all("lora_" in name and inside in name and outside not in name for name in names)
    if adapter.targets != "all_linear":
        assert {name.split(".lora_")[0].rpartition(".")[2] for name in names} == {
            "q_proj",
            "v_proj",
        }


def test_the_scale_of_an_adapter_is_alpha_over_rank(checkpoint: Path) -> None:
    for alpha, scale in ((None, 2.0), (8.0, 2.0), (2.0, 0.5)):
        loaded = load(checkpoint)
        prepare_for_training(loaded, adapter=Adapter(rank=4, alpha=alpha))
        layer = loaded.base.model.language_model.layers[0].mlp.up_proj
        assert layer.scaling["default"] == scale


def test_an_adapter_on_a_tied_head_is_refused(checkpoint: Path, untied: Path) -> None:
    adapter = Adapter(rank=2, parts=("language_model", "head"))
    with pytest.raises(UsageError, match="shares its weight"):
        prepare_for_training(load(checkpoint), adapter=adapter)
    loaded = load(untied)
    prepare_for_training(loaded, adapter=adapter)
    assert any("lm_head" in name for name in trained(loaded))


@pytest.mark.parametrize(
    ("adapter", "freeze", "error"),
    [
        (Adapter(targets=("query",)), (), r"adapter.targets: the language_model .*q_proj"),
        (Adapter(), ("language_model",), "cannot be frozen and adapted"),
    ],
)
def test_an_adapter_that_fits_nothing_is_refused(
    checkpoint: Path, adapter: Adapter, freeze: Any, error: str
) -> None:
    with pytest.raises(UsageError, match=error):
        prepare_for_training(load(checkpoint), adapter=adapter, freeze=freeze)


def test_a_quantised_model_needs_an_adapter(checkpoint: Path) -> None:
    loaded = load(checkpoint)
    loaded.section = ModelSection(model=str(checkpoint), quantization="nf4")
    with pytest.raises(UsageError, match="add an adapter"):
        prepare_for_training(loaded, adapter=None)


def test_half_precision_bases_get_full_precision_adapters(checkpoint: Path, tmp_path: Path) -> None:
    loaded = load(checkpoint, dtype="bfloat16")
    prepare_for_training(loaded, adapter=Adapter(rank=2))
    dtypes = {p.dtype for p in loaded.model.parameters() if p.requires_grad}
    assert dtypes == {torch.float32}
    loaded.save(tmp_path)
    assert load(tmp_path).base.dtype == torch.bfloat16


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_quantised_model_trains_and_is_saved_unquantised(
    tmp_path: Path, quantization: str
) -> None:
    pytest.importorskip("bitsandbytes", reason="needs the extra limbeck[quantization]")
    sizes = {"hidden_size": 64, "intermediate_size": 64, "vision_hidden_size": 64}
    folder = family_named("qwen2_vl").tiny(tmp_path / "model", **sizes)
    loaded = load(folder, quantization=quantization)
    plain = sum(p.numel() for p in load(folder).model.parameters())
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "a.png")
    sample = Sample("a", "train", (message,), (ImageFile("a.png", "", 64, 64),))
    assert check_image_sensitivity(loaded, sample, tmp_path, "a red square") > 0
    summary = prepare_for_training(loaded, adapter=Adapter(rank=2))
    assert summary["total_parameters"] - summary["trainable_parameters"] == plain
    item = loaded.encoder.encode(sample, tmp_path, "a red square")
    batch = collate([item], pad_id=loaded.encoder.pad_id, side="right")
    loaded.hidden_states(batch.inputs).sum().backward()
    second = {n: p for n, p in loaded.model.named_parameters() if "lora_B" in n}
    assert all(p.grad is not None and p.grad.any() for p in second.values())
    with torch.no_grad():
        for parameter in loaded.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    loaded.save(tmp_path / "saved")
    original, saved = (load(f).base.state_dict() for f in (folder, tmp_path / "saved"))
    assert original.keys() == saved.keys()
    changed = {name for name in original if not torch.equal(original[name], saved[name])}
    assert changed
    assert all("language_model.layers" in name for name in changed), "rounding was saved"


def test_a_sample_whose_picture_is_blank_does_not_raise_the_alarm(
    checkpoint: Path, tmp_path: Path
) -> None:
    Image.new("RGB", (64, 64), (128, 128, 128)).save(tmp_path / "grey.png")
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "a"}]}
    sample = Sample("grey", "train", (message,), (ImageFile("grey.png", "", 64, 64),))
    assert check_image_sensitivity(load(checkpoint), sample, tmp_path, "a red square") > 0
