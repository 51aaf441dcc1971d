"""Arms with data, teachers and labels of their own: what is shared is made once, leaks refused."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from limbeck import pipeline
from limbeck.errors import DataError
from test_pipeline import tiny_recipe


def kinds(work: Path, **changes: Any) -> Counter[str]:
    only = {"evaluate__models": ["student"], "seeds": [0], "benchmark__models": []}
    recipe = tiny_recipe(work, **only, **changes)
    return Counter(planned.stage.kind for planned in pipeline.build_plan(recipe).stages)


def test_a_grid_over_losses_and_training_shares_all_that_comes_before(tmp_path: Path) -> None:
    grid = {"losses.1.weight": [1, 2], "training.steps": [3, 4]}
    found = kinds(tmp_path, ablate={"grid": grid})
    assert (found["data"], found["teacher"], found["labels"], found["models"]) == (1, 1, 1, 2)
    assert (found["student"], found["predictions"], found["held_out"]) == (4, 4, 0)


def test_a_grid_over_labels_shares_data_and_teacher(tmp_path: Path) -> None:
    found = kinds(tmp_path, ablate={"grid": {"label.top_k": [2, 4, 8]}})
    assert (found["data"], found["teacher"], found["labels"], found["student"]) == (1, 1, 3, 3)
    assert found["models"] == 2, "the teacher and the student before training"


def test_a_grid_over_data_gives_each_value_its_own_chain_and_one_evaluation(tmp_path: Path) -> None:
    found = kinds(tmp_path, ablate={"grid": {"data.train": [12, 16]}})
    assert (found["data"], found["held_out"], found["labels"]) == (2, 1, 2)
    assert (found["student"], found["evaluation"]) == (2, 1)


def folder_of_pictures(root: Path, number: int) -> Path:
    root.mkdir()
    rows = []
    for index in range(number):
        noise = random.Random(index).randbytes(64 * 64 * 3)  # its hash decides the split
        picture = Image.frombytes("RGB", (64, 64), noise)
        picture.save(root / f"{index}.png")
        messages = [
            {"role": "user", "content": f"<image>say {index}"},
            {"role": "assistant", "content": f"picture number {index}"},
        ]
        rows.append({"messages": messages, "images": [f"{index}.png"], "id": str(index)})
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root / "rows.jsonl"


def test_data_of_an_arm_that_holds_evaluated_pictures_is_refused(tmp_path: Path) -> None:
    path = folder_of_pictures(tmp_path / "pictures", 24)
    data = {
        "source": "jsonl",
        "path": str(path),
        "splits": "hash",
        "test_share": 0.3,
        "validation_share": 0.1,
    }
    recipe = tiny_recipe(
        tmp_path / "work",
        data=data,
        seeds=[0],
        teacher__fine_tune=None,
        evaluate__models=["student"],
        benchmark__models=[],
        ablate={"points": {"other_split": {"data.test_share": 0.05}}},
    )
    with pytest.raises(DataError, match="evaluated samples would be trained on") as caught:
        pipeline.run(recipe, until="train")
    assert "arms.other_split.data" in str(caught.value)
