"""Loading models, and what is said when that cannot be done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers

from limbeck.errors import MemoryExhaustedError, UsageError
from limbeck.models import weights
from limbeck.models.family import family_named
from limbeck.models.load import load_model
from limbeck.recipe.sections import ModelSection


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_named("qwen2_vl").tiny(tmp_path_factory.mktemp("qwen2_vl"))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_the_precision_is_the_one_asked_for(
    checkpoint: Path, dtype: str, expected: torch.dtype
) -> None:
    loaded = load_model(ModelSection(model=str(checkpoint), dtype=dtype), device="cpu")
    assert {parameter.dtype for parameter in loaded.model.parameters()} == {expected}
    assert not loaded.model.training


def test_pictures_come_in_the_model_s_precision(checkpoint: Path) -> None:
    loaded = load_model(ModelSection(model=str(checkpoint), dtype="bfloat16"), device="cpu")
    placed = loaded.place({"pixel_values": torch.zeros(1), "input_ids": torch.zeros(1).long()})
    assert placed["pixel_values"].dtype == torch.bfloat16
    assert placed["input_ids"].dtype == torch.int64


def test_the_attention_is_the_one_asked_for(checkpoint: Path) -> None:
    for wanted, expected in (("eager", "eager"), ("sdpa", "sdpa"), ("auto", "sdpa")):
        section = ModelSection(model=str(checkpoint), attention=wanted)
        assert load_model(section, device="cpu").model.config._attn_implementation == expected


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
def test_quantisation_without_its_package_names_the_extra(
    checkpoint: Path, quantization: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "_has_bitsandbytes", lambda: False)
    section = ModelSection(model=str(checkpoint), quantization=quantization)
    with pytest.raises(UsageError, match=r"limbeck\[quantization\]"):
        load_model(section, device="cpu")


def test_a_device_without_the_memory_says_so(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 14 GiB")

    auto = transformers.AutoModelForImageTextToText
    monkeypatch.setattr(auto, "from_pretrained", exhausted)
    with pytest.raises(MemoryExhaustedError, match="does not hold the model"):
        load_model(ModelSection(model=str(checkpoint)), device="cpu")


def test_a_text_model_is_refused(tmp_path: Path) -> None:
    config = transformers.Qwen2Config(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    transformers.Qwen2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_model(ModelSection(model=str(tmp_path)), device="cpu")


def test_a_torn_weight_file_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "torn")
    file = tmp_path / "torn" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_model(ModelSection(model=str(tmp_path / "torn")), device="cpu")


def test_weights_that_lack_a_layer_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoint, tmp_path / "half")
    config = json.loads((checkpoint / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    config["text_config"]["layer_types"] = ["full_attention"] * 3
    (tmp_path / "half" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match=r"weights of .* are missing"):
        load_model(ModelSection(model=str(tmp_path / "half")), device="cpu")


def test_a_folder_without_a_processor_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(checkpoint / name, tmp_path / name)
    with pytest.raises(UsageError):
        load_model(ModelSection(model=str(tmp_path)), device="cpu")
