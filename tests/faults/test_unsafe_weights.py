"""Weights from strangers: pickle files are refused and never opened."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from limbeck.errors import UsageError
from limbeck.models.compose import compose_model
from limbeck.models.family import family_named
from limbeck.models.load import load_model
from limbeck.models.source import model_identity
from limbeck.recipe.sections import Compose, ModelSection


class Payload:
    """Creates a file as soon as it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def poisoned(tmp_path: Path, request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A complete model whose only weights are a pickle with a payload, and the payload's mark."""
    folder, mark = tmp_path / "model", tmp_path / "executed"
    family_named("qwen2_vl").tiny(folder)
    (folder / "model.safetensors").unlink()
    torch.save(Payload(mark), folder / request.param)
    return folder, mark


NAMES = ["pytorch_model.bin", "model.pt", "weights.pth", "consolidated.00.pth", "last.ckpt"]


@pytest.mark.parametrize("poisoned", NAMES, indirect=True)
def test_pickled_weights_are_refused_and_never_executed(poisoned: tuple[Path, Path]) -> None:
    folder, mark = poisoned
    section = ModelSection(model=str(folder))
    with pytest.raises(UsageError, match="pickled"):
        load_model(section, device="cpu")
    with pytest.raises(UsageError, match="pickled"):
        model_identity(section)
    with pytest.raises(UsageError, match="pickled"):
        compose_model(Compose(vision=str(folder), language=str(folder)), 0, folder / "out")
    assert not mark.exists()


def test_a_pickle_beside_safetensors_is_not_opened(tmp_path: Path) -> None:
    family_named("qwen2_vl").tiny(tmp_path / "model")
    for name in (*NAMES, "training_args.bin", "optimizer.pt"):
        torch.save(Payload(tmp_path / "executed"), tmp_path / "model" / name)
    load_model(ModelSection(model=str(tmp_path / "model")), device="cpu")
    assert not (tmp_path / "executed").exists()


def test_an_index_that_points_to_pickles_is_refused(tmp_path: Path) -> None:
    folder, mark = tmp_path / "model", tmp_path / "executed"
    family_named("qwen2_vl").tiny(folder)
    (folder / "model.safetensors").unlink()
    torch.save(Payload(mark), folder / "pytorch_model.bin")
    for index in ("pytorch_model.bin.index.json", "model.safetensors.index.json"):
        content = {"metadata": {}, "weight_map": {"lm_head.weight": "pytorch_model.bin"}}
        (folder / index).write_text(json.dumps(content))
        with pytest.raises(UsageError, match="pickled"):
            load_model(ModelSection(model=str(folder)), device="cpu")
        assert not mark.exists()
        (folder / index).unlink()


def test_an_adapter_is_not_followed_to_its_base_model(tmp_path: Path) -> None:
    folder = family_named("qwen2_vl").tiny(tmp_path)
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tmp_path / "elsewhere")}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(UsageError, match="an adapter, not a whole model"):
        load_model(ModelSection(model=str(folder)), device="cpu")


def test_code_of_a_model_folder_is_not_run_unasked(tmp_path: Path) -> None:
    folder, mark = tmp_path / "model", tmp_path / "executed"
    shutil.copytree(family_named("qwen2_vl").tiny(tmp_path / "tiny"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {
        "AutoConfig": "evil.EvilConfig",
        "AutoModelForImageTextToText": "evil.EvilModel",
        "AutoProcessor": "evil.EvilProcessor",
    }
    config["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text(f"import os\nos.mkdir({str(mark)!r})\n")
    with pytest.raises(UsageError):
        load_model(ModelSection(model=str(folder)), device="cpu")
    assert not mark.exists()


def test_remote_code_needs_a_pinned_revision() -> None:
    with pytest.raises(ValueError, match="revision"):
        ModelSection(model="org/model", trust_remote_code=True)
    with pytest.raises(ValueError, match="revision"):
        ModelSection(model="org/model", trust_remote_code=True, revision="main")
    ModelSection(model="org/model", trust_remote_code=True, revision="a" * 40)
