"""Labels and training over several splits of a mixed data set, an unlabelled folder among them."""

from __future__ import annotations

from pathlib import Path

from limbeck import pipeline
from limbeck.data.labels import read_labels
from limbeck.data.sources.screens import Screens
from limbeck.recipe.sections import Labelling
from test_pipeline import tiny_recipe


def test_unlabelled_pictures_are_labelled_and_trained_on_with_the_others(tmp_path: Path) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    for row in Screens(train=4, validation=0, test=0, seed=9).rows():
        (pool / f"{row.id}.png").write_bytes(row.images[0])
    screens = {"source": "screens", "train": 8, "validation": 1, "test": 6}
    folder = {"source": "folder", "path": str(pool), "split": "unlabelled"}
    recipe = tiny_recipe(
        tmp_path / "work",
        seeds=[0],
        data={"source": "mixed", "parts": [screens, folder]},
        teacher__fine_tune__training__steps=30,
        teacher__fine_tune__training__learning_rate=0.01,
        label={
            "split": ["train", "unlabelled"],
            "top_k": 4,
            "max_new_tokens": 8,
            "checks": {"must_finish": False, "max_unfit_share": 0.9, "max_repetition": 1},
        },
    )
    result = pipeline.run(recipe, until="train")
    stage = next(row for row in result.stages if row["kind"] == "labels")
    assert stage["title"] == "train + unlabelled"
    labels = read_labels(Path(stage["folder"]))
    assert [row.sample_id for row in labels][-4:] == [f"train-{n:06d}.png" for n in range(1, 5)]
    assert len(labels) == 12


def test_one_split_may_stand_alone() -> None:
    assert Labelling(split="train").splits == ("train",)
    assert Labelling.model_validate({"split": ["train", "pool"]}).splits == ("train", "pool")
    assert Labelling(split="train").model_dump(mode="json")["split"] == "train"
