"""Sources in their published layouts, and leaks between splits."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from limbeck.encoders.data import prepare_examples, read_examples
from limbeck.encoders.sources.cifar import Cifar
from limbeck.encoders.sources.coco_captions import CocoCaptions
from limbeck.encoders.sources.image_folder import ImageFolder
from limbeck.encoders.sources.synthetic import Synthetic
from limbeck.encoders.sources.table import Table
from limbeck.encoders.sources.tiny_imagenet import TinyImagenet
from limbeck.errors import DataError, GuardError


def picture(path: Path, seed: int, side: int = 128) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC).save(path)
    return path


def prepared(source: Any, folder: Path) -> Any:
    folder.mkdir()
    prepare_examples(source, folder)
    return read_examples(folder)


def test_tiny_imagenet_in_its_published_layout(tmp_path: Path):
    base = tmp_path / "tiny"
    seeds = iter(range(100))
    for wnid in ("n01", "n02"):
        for n in range(3):
            picture(base / "train" / wnid / "images" / f"{wnid}_{n}.JPEG", next(seeds))
    for n in range(2):
        picture(base / "val" / "images" / f"val_{n}.JPEG", next(seeds))
    (base / "val" / "val_annotations.txt").write_text(
        "val_0.JPEG\tn02\t0\t0\t9\t9\nval_1.JPEG\tn01\t0\t0\t9\t9\n"
    )
    (base / "words.txt").write_text("n01\tgoldfish, Carassius\nn02\tbullfrog\n")
    found = prepared(TinyImagenet(path=str(base)), tmp_path / "out")
    assert found.classes == ["bullfrog", "goldfish"]
    assert [found.classes[i] for i in found.labels_N[found.of("test")]] == ["bullfrog", "goldfish"]
    assert found.prompts == ["a photo of a bullfrog", "a photo of a goldfish"]


def test_coco_captions_in_their_published_layout(tmp_path: Path):
    for split, first in (("train2017", 0), ("val2017", 10)):
        images = [{"id": first + n, "file_name": f"{first + n:012d}.jpg"} for n in range(2)]
        for row in images:
            picture(tmp_path / split / row["file_name"], row["id"])
        said = [
            {"id": 5 * row["id"] + n, "image_id": row["id"], "caption": f"c {n}\n"}
            for row in images
            for n in range(5)
        ]
        table = tmp_path / "annotations" / f"captions_{split}.json"
        table.parent.mkdir(exist_ok=True)
        table.write_text(json.dumps({"images": images, "annotations": said}))
    found = prepared(CocoCaptions(path=str(tmp_path)), tmp_path / "out")
    texts, owners = found.captions()
    assert found.task == "retrieval"
    assert len(texts) == 20
    assert texts[:2] == ["c 0", "c 1"]
    assert list(owners[:6]) == [0, 0, 0, 0, 0, 1]


def test_cifar_is_read_from_the_binary_version_and_never_from_a_pickle(tmp_path: Path):
    (tmp_path / "batches.meta.txt").write_text("plane\nship\n")
    (tmp_path / "data_batch_1").write_bytes(pickle.dumps({"data": []}))
    with pytest.raises(DataError, match="binary version"):
        list(Cifar(path=str(tmp_path)).pictures())
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 255, (4, 3073), np.uint8)
    rows[:, 0] = (0, 1, 0, 1)
    (tmp_path / "data_batch_1.bin").write_bytes(rows[:2].tobytes())
    (tmp_path / "test_batch.bin").write_bytes(rows[2:].tobytes())
    found = list(Cifar(path=str(tmp_path)).pictures())
    assert [p.label for p in found] == ["plane", "ship", "plane", "ship"]
    expected = rows[0, 1:].reshape(3, 32, 32).transpose(1, 2, 0)
    assert (np.asarray(found[0].open()) == expected).all()


@pytest.mark.parametrize("planted", ["identical", "resized and re-encoded"])
def test_a_test_picture_that_is_in_train_too_fails_the_run(tmp_path: Path, planted: str):
    base = tmp_path / "folder"
    for n in range(4):
        picture(base / "train" / "ab"[n % 2] / f"{n}.png", n)
        picture(base / "test" / "ab"[n % 2] / f"{n}.png", 10 + n)
    leaked = base / "test" / "b" / "leaked.png"
    if planted == "identical":
        leaked.write_bytes((base / "train" / "a" / "0.png").read_bytes())
    else:
        leaked = leaked.with_suffix(".jpg")
        Image.open(base / "train" / "a" / "0.png").resize((96, 96)).save(leaked, quality=90)
    with pytest.raises(GuardError, match=r"1 test pictures are in train too.*leaked"):
        prepared(ImageFolder(path=str(base), image_size=64), tmp_path / "failing")
    dropping = ImageFolder(path=str(base), image_size=64, duplicates="drop")
    assert len(prepared(dropping, tmp_path / "dropping").of("train")) == 3


def test_a_table_with_chosen_splits(tmp_path: Path):
    rows = [
        {"image": picture(tmp_path / f"{n}.png", n).name, "app": "xy"[n % 2], "split": s}
        for n, s in enumerate(["train", "train", "validation", "test", "other"])
    ]
    table = tmp_path / "t.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Table(path=str(table), label="app", test=("validation", "test"))
    assert [p.split for p in source.pictures()] == ["train", "train", "test", "test"]


def test_the_synthetic_set_is_the_same_each_time_and_serves_both_tasks(tmp_path: Path):
    one = prepared(Synthetic(train=40, test=20), tmp_path / "a")
    two = prepared(Synthetic(train=40, test=20), tmp_path / "b")
    assert (one.pixels == two.pixels).all()
    assert len(one.classes) == 10
    assert (
        prepared(Synthetic(train=4, test=4, task="retrieval"), tmp_path / "c").task == "retrieval"
    )
