"""Finding models on this machine, without torch and without network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from limbeck.errors import UsageError
from limbeck.models.family import family_named
from limbeck.models.source import model_config, model_folder, model_identity, visual_tokens
from limbeck.recipe.sections import Build, Compose, ModelSection

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_named("qwen2_vl").tiny(tmp_path_factory.mktemp("qwen2_vl"))


@pytest.fixture
def cache(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub cache that holds the model org/tiny."""
    from huggingface_hub import constants

    repository = tmp_path / "hub" / "models--org--tiny"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    shutil.copytree(checkpoint, repository / "snapshots" / COMMIT)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return repository


def copy_of(checkpoint: Path, folder: Path) -> Path:
    return shutil.copytree(checkpoint, folder, copy_function=shutil.copy2)


def test_a_hub_model_is_identified_by_its_commit(cache: Path) -> None:
    section = ModelSection(model="org/tiny")
    assert model_identity(section) == {"model": "org/tiny", "commit": COMMIT}
    assert model_config(section)["model_type"] == "qwen2_vl"
    assert model_identity(ModelSection(model="org/tiny", revision=COMMIT))["commit"] == COMMIT


@pytest.mark.parametrize(
    ("fields", "mend"),
    [
        ({"model": "org/other"}, "hf download org/other"),
        ({"model": "org/tiny", "revision": "v2"}, "hf download org/tiny --revision v2"),
        ({"model": "not a name at all"}, "give a folder"),
    ],
)
def test_a_model_that_is_not_here_says_how_to_get_it(
    cache: Path, fields: dict[str, str], mend: str
) -> None:
    with pytest.raises(UsageError, match="is not on this machine") as caught:
        model_identity(ModelSection(**fields))
    assert mend in str(caught.value)


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere"])
def test_a_folder_that_is_not_there_is_not_looked_up_on_the_hub(name: str) -> None:
    with pytest.raises(UsageError, match="no such model folder"):
        model_identity(ModelSection(model=name))


def test_every_file_of_a_folder_counts(checkpoint: Path, tmp_path: Path) -> None:
    first = model_identity(ModelSection(model=str(copy_of(checkpoint, tmp_path / "a"))))
    second = copy_of(checkpoint, tmp_path / "b")
    assert model_identity(ModelSection(model=str(second))) == first
    for name in ("tokenizer.json", "chat_template.jinja", "processor_config.json", "config.json"):
        content = (second / name).read_text()
        (second / name).write_text(content + " ")
        assert model_identity(ModelSection(model=str(second))) != first, name
        (second / name).write_text(content)
        assert model_identity(ModelSection(model=str(second))) == first
    os.utime(second / "model.safetensors", ns=(1, 1))
    assert model_identity(ModelSection(model=str(second))) != first


def test_shards_that_are_missing_are_counted(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoint, tmp_path / "sharded")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UsageError, match=r"1 of 2 weight files are missing.*model-2"):
        model_folder(str(folder))


def test_a_folder_without_weights_or_config_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    folder = copy_of(checkpoint, tmp_path / "bare")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="has no weights"):
        model_folder(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(UsageError, match=r"no config\.json"):
        model_folder(str(folder))


def test_builds_and_compositions_have_an_identity(checkpoint: Path) -> None:
    build = model_identity(ModelSection(build=Build(family="qwen2_vl")))
    assert build != model_identity(ModelSection(build=Build(family="qwen2_vl", layers=5)))
    parts = Compose(vision=str(checkpoint), language=str(checkpoint))
    composed = model_identity(ModelSection(compose=parts))
    assert composed["vision"]["weights"] == composed["language"]["weights"]


@pytest.mark.parametrize("size", [(96, 128), (32, 32), (100, 50), (500, 700), (20, 900), (15, 15)])
@pytest.mark.parametrize("budget", [{}, {"max_pixels": 16_384}, {"min_pixels": 40_000}])
def test_the_estimate_of_visual_tokens_is_what_encoding_gives(
    checkpoint: Path, tmp_path: Path, size: tuple[int, int], budget: dict[str, int]
) -> None:
    from PIL import Image

    from limbeck.models.load import load_model
    from limbeck.records import ImageFile, Sample

    section = ModelSection(model=str(checkpoint), **budget)
    Image.new("RGB", size).save(tmp_path / "a.png")
    message = {"role": "user", "content": [{"type": "image"}]}
    sample = Sample("a", "train", (message,), (ImageFile("a.png", "", *size),))
    encoded = load_model(section, device="cpu").encoder.encode(sample, tmp_path, None)
    assert visual_tokens(section, *size) == encoded.visual_tokens


def test_other_processors_have_no_estimate(tmp_path: Path) -> None:
    folder = family_named("llava").tiny(tmp_path)
    assert visual_tokens(ModelSection(model=str(folder)), 100, 100) is None


def test_identifying_a_model_loads_no_torch(checkpoint: Path) -> None:
    code = (
        "import sys; from limbeck.models.source import model_identity;"
        "from limbeck.recipe.sections import ModelSection;"
        f"model_identity(ModelSection(model={str(checkpoint)!r}));"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
