"""Prepared examples: kept within bounds, in every process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.data.samples import read_samples
from limbeck.models.load import load_model
from limbeck.recipe.sections import ModelSection
from limbeck.training import examples as examples_module
from limbeck.training.batches import Example, MicroBatch
from limbeck.training.examples import EncodedExamples


@pytest.fixture
def encoded(screens: Path, tiny_model: Path) -> EncodedExamples:
    encoder = load_model(ModelSection(model=str(tiny_model)), device="cpu").encoder
    samples = read_samples(screens, "train")[:4]
    examples = [Example(s, s.references[0], "teacher") for s in samples]
    return EncodedExamples(examples, encoder, screens)


def plan(epochs: int) -> Iterator[MicroBatch]:
    for _ in range(epochs):
        yield MicroBatch((0, 1), "teacher")
        yield MicroBatch((2, 3), "teacher")


@pytest.fixture
def log(encoded: EncodedExamples, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A line, the process, for every picture that is prepared."""
    path = tmp_path / "log"
    path.touch()
    encode = type(encoded._encoder).encode

    def noting(*given: Any, **options: Any) -> Any:
        with path.open("a") as stream:
            stream.write(f"{os.getpid()}\n")
        return encode(*given, **options)

    monkeypatch.setattr(type(encoded._encoder), "encode", noting)
    return path


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_no_process_prepares_a_sample_twice_while_it_fits(
    encoded: EncodedExamples, log: Path, workers: int
) -> None:
    batches = list(encoded.stream(plan(epochs=5), workers))
    assert len(batches) == 10
    times = log.read_text().split()
    assert len(times) <= 4 * max(1, workers)
    assert len(set(times)) <= max(1, workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_all_processes_keep_has_one_bound(
    encoded: EncodedExamples, log: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    size = sum(tensor.nbytes for tensor in encoded[0].features.values())
    encoded._kept.clear()
    encoded._kept_bytes = 0
    monkeypatch.setattr(examples_module, "CACHE_BYTES", 2 * size + size // 2)
    log.write_text("")
    list(encoded.stream(plan(epochs=3), workers))
    # Alone it keeps two of the four. With workers there are three shares, and none holds a sample.
    assert len(log.read_text().split()) == (4 + 2 + 2 if workers == 0 else 12)


def test_batches_of_workers_are_those_of_this_process(encoded: EncodedExamples) -> None:
    one, other = (list(encoded.stream(plan(epochs=2), workers)) for workers in (0, 2))
    for mine, theirs in zip(one, other, strict=True):
        assert mine.answers == theirs.answers
        assert torch.equal(mine.batch.targets_BL, theirs.batch.targets_BL)
        assert mine.batch.inputs.keys() == theirs.batch.inputs.keys()
        for name, tensor in mine.batch.inputs.items():
            assert torch.equal(tensor, theirs.batch.inputs[name])
