"""The answer of the nearest training picture, as a floor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from limbeck.data.samples import read_samples
from limbeck.errors import DataError, UsageError
from limbeck.evaluate.nearest_neighbour import nearest_neighbour, neighbours
from limbeck.models.image_embedding import image_embedding
from limbeck.models.load import load_model
from limbeck.recipe.sections import ModelSection
from limbeck.records import ImageFile, Sample

VECTORS = {"red": [1, 0.1], "pink": [1, 0.3], "blue": [0, 1], "navy": [0.1, 1], "none": [0, 0]}


def sample(picture: str, question: str = "what?", answer: str = "", kind: str = "") -> Sample:
    images = (ImageFile(picture, picture, 8, 8),) if picture else ()
    messages = ({"role": "user", "content": [{"type": "text", "text": question}]},)
    metadata = {"question_type": kind} if kind else {}
    return Sample(f"{picture}-{question}", "test", messages, images, (answer,), metadata)


def chosen(asked: Sample, known: list[Sample]) -> tuple[str, str]:
    embedded: list[str] = []

    def embed(one: Sample) -> np.ndarray:
        embedded.append(one.images[0].sha256)
        return np.asarray(VECTORS[one.images[0].sha256], dtype=np.float32)

    [(place, similarity, rule)] = neighbours([asked], known, embed)
    assert len(embedded) == len(set(embedded)), "a picture is embedded once"
    assert -1 <= similarity <= 1 + 1e-6
    return known[place].references[0], rule


def test_the_nearest_picture_is_found_among_those_with_the_same_question() -> None:
    known = [
        sample("pink", "what?", "a"),
        sample("blue", "what?", "b"),
        sample("red", "where?", "c", kind="place"),
        sample("navy", "where else?", "d", kind="place"),
    ]
    assert chosen(sample("red"), known) == ("a", "same question")
    assert chosen(sample("navy"), known) == ("b", "same question")
    assert chosen(sample("blue", "where now?", kind="place"), known) == ("d", "same type")
    assert chosen(sample("red", "who?"), known[:2]) == ("a", "same type")  # both have no type
    assert chosen(sample("red", "who?", kind="person"), known) == ("c", "all")


def test_of_equally_near_ones_and_without_a_picture_the_first_in_the_data_wins() -> None:
    known = [sample("blue", answer="1"), sample("blue", answer="2"), sample("red", answer="3")]
    assert chosen(sample("navy"), known) == ("1", "same question")
    assert chosen(sample(""), known) == ("1", "same question")
    assert chosen(sample("none"), known) == ("1", "same question")


def test_a_picture_of_training_gets_its_own_answer(
    screens: Path, tiny_model: Path, tmp_path: Path
) -> None:
    train = read_samples(screens, "train")
    asked = [replace(one, id=f"again-{one.id}") for one in train[5:8]]
    summary = nearest_neighbour(
        tmp_path,
        section=ModelSection(model=str(tiny_model)),
        samples=asked,
        known=train,
        data=screens,
        device="cpu",
    )
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").open()]
    assert [row["id"] for row in rows] == [one.id for one in asked]
    assert [row["prediction"] for row in rows] == [one.references[0] for one in asked]
    assert [row["neighbour"] for row in rows] == [one.id for one in train[5:8]]
    assert all(row["similarity"] == pytest.approx(1, abs=1e-5) for row in rows)
    assert summary["looked_among"] == {"same question": 3, "same type": 0, "all": 0}


def test_an_embedding_is_the_mean_of_the_towers_features_and_differs_between_pictures(
    screens: Path, tiny_model: Path
) -> None:
    from limbeck.data.tokens import collate
    from limbeck.models.taps import read_features
    from limbeck.records import Tap

    loaded = load_model(ModelSection(model=str(tiny_model)), device="cpu")
    tap = Tap("vision", place="tower")
    found = []
    for one in read_samples(screens, "test", 2):
        item = loaded.encoder.encode(one, screens, one.references[0])
        batch = collate([item], pad_id=loaded.encoder.pad_id, side="right")
        [features] = read_features(loaded, batch, [tap]).tensors[tap]
        vector = image_embedding(loaded, loaded.encoder.encode(one, screens, None))
        assert vector.numpy() == pytest.approx(features.float().mean(0).numpy(), abs=1e-5)
        found.append(vector)
    assert (found[0] - found[1]).abs().max() > 1e-4


def test_without_gold_answers_there_is_nothing_to_copy(tmp_path: Path) -> None:
    known = [replace(sample("red"), references=())]
    with pytest.raises(DataError, match="no training sample has a gold answer"):
        nearest_neighbour(
            tmp_path,
            section=ModelSection(model="unused"),
            samples=known,
            known=known,
            data=tmp_path,
            device="cpu",
        )


def test_a_family_whose_tower_cannot_be_run_by_itself_is_refused(
    screens: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(ModelSection(model=str(tiny_model)), device="cpu")
    item = loaded.encoder.encode(read_samples(screens, "test", 1)[0], screens, None)
    monkeypatch.setattr(type(loaded.family), "parts", lambda *_: {})
    with pytest.raises(UsageError, match=r"evaluate\.neighbour_features: the vision tower"):
        image_embedding(loaded, item)
