"""The floor that copies the answer of the nearest training picture."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))
from limbeck import pipeline
from limbeck.data.samples import read_samples
from limbeck.errors import DataError, UsageError
from limbeck.evaluate.nearest_neighbour import nearest_neighbour, neighbours
from limbeck.graph import graph_of
from limbeck.recipe.sections import ModelSection
from limbeck.records import ImageFile, Sample
from test_pipeline import tiny_recipe

VECTORS = {"a": (1, 0), "b": (0.6, 0.8), "c": (0, 1)}


def sample(name: str, picture: str, question: str = "What?", **metadata: str) -> Sample:
    message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}
    file = ImageFile(picture, picture, 8, 8)
    return Sample(name, "train", (message,), (file,), (f"answer of {name}",), dict(metadata))


def embed(one: Sample) -> np.ndarray:
    return np.asarray(VECTORS[one.images[0].path], dtype=np.float32) * 3


def test_the_nearest_by_cosine_is_chosen_and_the_first_of_equals() -> None:
    known = [sample("far", "c"), sample("near", "b"), sample("same", "b")]
    assert neighbours([sample("asked", "a")], known, embed) == [
        (1, pytest.approx(0.6), "same question")
    ]


def test_the_same_question_comes_first_then_the_type_then_all() -> None:
    known = [
        sample("nearest", "a", "Other?", question_type="count"),
        sample("typed", "b", "Else?", question_type="colour"),
        sample("asked so", "c", "What?", question_type="count"),
    ]
    asked = [
        sample("1", "a", "What?"),
        sample("2", "a", "New?", question_type="colour"),
        sample("3", "a", "New?", question_type="unseen"),
    ]
    found = neighbours(asked, known, embed)
    assert [(place, rule) for place, _, rule in found] == [
        *((2, "same question"), (1, "same type")),
        (0, "all"),
    ]


def test_a_picture_seen_in_training_gets_its_own_answer(
    screens: Path, tiny_model: Path, tmp_path: Path
) -> None:
    known = read_samples(screens, "train")[:6]
    asked = [replace(one, id=f"again {one.id}") for one in known[::-1]]
    section = ModelSection(model=str(tiny_model))
    summary = nearest_neighbour(
        tmp_path, section=section, samples=asked, known=known, data=screens, device="cpu"
    )
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["prediction"] for row in rows] == [one.references[0] for one in asked]
    assert [row["neighbour"] for row in rows] == [one.id for one in known[::-1]]
    assert all(row["similarity"] == pytest.approx(1, abs=1e-4) for row in rows)
    assert summary["looked_among"]["same question"] == 6


def test_without_gold_answers_there_is_nothing_to_copy(screens: Path, tmp_path: Path) -> None:
    known = [replace(one, references=()) for one in read_samples(screens, "train")[:2]]
    with pytest.raises(DataError, match="leave nearest_neighbour out"):
        nearest_neighbour(
            tmp_path,
            section=ModelSection(model="nowhere"),
            samples=known,
            known=known,
            data=screens,
            device="cpu",
        )


def test_it_is_a_floor_of_the_report(tmp_path: Path) -> None:
    models = ["teacher", "student", "nearest_neighbour", "most_frequent"]
    recipe = tiny_recipe(tmp_path, seeds=[0], evaluate__models=models, evaluate__fidelity=True)
    result = pipeline.run(recipe)
    results = json.loads((result.report.parent / "results.json").read_text())
    pairs = {(row["arm"], row["floor"]) for row in results["floors"]}
    assert ("teacher", "nearest_neighbour") in pairs
    assert ("student", "nearest_neighbour") in pairs
    assert "The answer of the nearest training picture" in result.report.read_text()
    arms = {row["arm"] for row in results["evaluation"]["fidelity"]["arms"]}
    assert arms == {"student"}
    page = (result.report.parent / "README.md").read_text()
    assert "Fidelity to the teacher" in page
    assert "Likeness to the teacher's texts" in page


def test_whose_tower_looks_can_be_chosen_and_a_served_teachers_cannot(tmp_path: Path) -> None:
    models = ["teacher", "student", "nearest_neighbour"]
    looks = {}
    for wanted in ("auto", "teacher", "baseline"):
        changes = {"evaluate__models": models, "evaluate__neighbour_features": wanted}
        stages = graph_of(tiny_recipe(tmp_path, **changes)).stages
        stage = next(s for s in stages if (s.kind, s.title) == ("predictions", "nearest_neighbour"))
        looks[wanted] = stage.fingerprint
    assert looks["auto"] == looks["teacher"] != looks["baseline"]
    served = {"backend": "openai", "model": "m", "base_url": "http://127.0.0.1:9/v1"}
    recipe = tiny_recipe(
        tmp_path,
        teacher=served,
        losses=[{"kind": "cross_entropy"}],
        label={"signal": "none"},
        evaluate__models=models,
        evaluate__neighbour_features="teacher",
    )
    with pytest.raises(UsageError, match="set it to baseline"):
        graph_of(recipe)
