"""Prompts are the same whoever prepares them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from limbeck.data.prefetch import encoded_batches
from limbeck.data.samples import read_samples
from limbeck.errors import DataError
from limbeck.models.load import LoadedModel, load_model
from limbeck.recipe.sections import ModelSection


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> LoadedModel:
    return load_model(ModelSection(model=str(tiny_model)), device="cpu")


@pytest.mark.parametrize("blank", [False, True])
def test_workers_prepare_what_one_process_does(
    loaded: LoadedModel, screens: Path, blank: bool
) -> None:
    samples = read_samples(screens, "train", 7)
    batches = [samples[:3], [samples[3], samples[3]], samples[4:]]
    ways = [
        list(encoded_batches(loaded.encoder, screens, batches, n, blank_images=blank))
        for n in (0, 1, 2)
    ]
    for way in ways:
        assert [len(batch) for batch in way] == [3, 2, 3]
        for batch, expected in zip(way, ways[0], strict=True):
            for item, other in zip(batch, expected, strict=True):
                assert item.input_ids_L.equal(other.input_ids_L)
                assert all(
                    item.features[name].equal(other.features[name]) for name in item.features
                )


def test_a_broken_picture_is_named_also_from_a_worker(loaded: LoadedModel, screens: Path) -> None:
    samples = read_samples(screens, "train", 4)
    missing = replace(samples[2].images[0], path="images/none.png")
    broken = [*samples[:2], replace(samples[2], images=(missing,)), samples[3]]
    with pytest.raises(DataError) as raised:
        list(encoded_batches(loaded.encoder, screens, [[s] for s in broken], 2))
    assert raised.value.where == samples[2].id
