"""What many tests share: a small data stage and a small real model, made once a session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tiny_models import tiny_build

os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def screens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished data stage: 24 training and 8 test screens."""
    from limbeck.data.prepare import prepare
    from limbeck.data.sources.screens import Screens

    folder = tmp_path_factory.mktemp("screens")
    prepare(Screens(train=24, validation=2, test=8), folder)
    return folder


@pytest.fixture(scope="session")
def tiny_model(screens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2-VL with random weights that knows the words of `screens`."""
    from limbeck.data.samples import read_samples
    from limbeck.models.build import build_model

    texts = [
        text
        for sample in read_samples(screens)
        for text in (sample.messages[0]["content"][-1]["text"], *sample.references)
    ]
    folder = tmp_path_factory.mktemp("tiny") / "model"
    build_model(tiny_build(), texts, 0, folder)
    return folder


@pytest.fixture(scope="session")
def taught_model(screens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen2-VL with a byte-level tokenizer that has learnt how a caption of `screens` ends."""
    from limbeck.data.samples import read_samples
    from limbeck.models.build import build_model
    from limbeck.recipe.sections import FineTune, ModelSection
    from limbeck.training.stage import fine_tune

    folder, samples = tmp_path_factory.mktemp("taught"), read_samples(screens, "train")
    texts = [s.messages[0]["content"][-1]["text"] for s in samples]
    texts += [reference for s in samples for reference in s.references]
    build_model(tiny_build(tokenizer="bpe", hidden_size=64), texts, 0, folder / "model")
    training = {
        "steps": 120,
        "samples_per_step": 8,
        "samples_per_micro_batch": 8,
        "learning_rate": 5e-3,
        "precision": "fp32",
    }
    fine_tune(
        folder / "trained",
        section=ModelSection(model=str(folder / "model")),
        settings=FineTune.model_validate({"training": training}),
        samples=samples,
        data=screens,
        device="cpu",
    )
    return folder / "trained" / "student"


@pytest.fixture(scope="session")
def varied_model(screens: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `tiny_model`, but its answers differ from sample to sample, and some of them end.

    Its heads are wide enough for the kernels of every runtime.
    """
    from safetensors.torch import load_file, save_file

    from limbeck.data.samples import read_samples
    from limbeck.models.build import build_model

    texts = [
        text
        for sample in read_samples(screens)
        for text in (sample.messages[0]["content"][-1]["text"], *sample.references)
    ]
    folder = tmp_path_factory.mktemp("varied") / "model"
    build_model(tiny_build(hidden_size=128), texts, 0, folder)
    path = folder / "model.safetensors"
    weights = {k: v * 6 if v.ndim > 1 else v for k, v in load_file(path).items()}
    save_file(weights, path, metadata={"format": "pt"})
    return folder
