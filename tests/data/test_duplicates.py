"""Copies of one picture are found whatever they are stored as; pictures that look alike are not."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from limbeck.data.duplicates import Look, block_difference, hash_pairs, look_of, same_pictures
from limbeck.data.prepare import prepare
from limbeck.data.samples import read_samples
from limbeck.data.sources import Row, Source
from limbeck.data.sources.screens import Screens


def screens(count: int) -> list[Image.Image]:
    rows = Screens(train=count, validation=0, test=0, width=256, height=256).rows()
    return [Image.open(io.BytesIO(row.images[0])).convert("RGB") for row in rows]


def stored(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def again(image: Image.Image, kind: str, **options: object) -> Image.Image:
    return Image.open(io.BytesIO(stored(image, kind, **options))).convert("RGB")


def scaled(image: Image.Image, by: float) -> Image.Image:
    return image.resize((round(image.width * by), round(image.height * by)), Image.LANCZOS)


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "jpeg": lambda image: again(image, "JPEG", quality=60),
    "webp": lambda image: again(image, "WEBP", quality=60),
    "half": lambda image: scaled(image, 0.5),
    "larger": lambda image: scaled(image, 1.5),
    "small jpeg": lambda image: again(scaled(image, 0.75), "JPEG", quality=80),
    "brighter": lambda image: image.point(lambda value: min(255, int(value * 1.04))),
}


def groups_of(images: dict[str, Image.Image]) -> list[list[str]]:
    looks = {name: look for name, image in images.items() if (look := look_of(image))}
    return same_pictures(looks, images.__getitem__).groups


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_is_found_among_screens_that_look_alike(kind: str) -> None:
    images = {str(n): image for n, image in enumerate(screens(40))}
    copies = {f"{name} copy": COPIES[kind](image) for name, image in images.items()}
    assert groups_of(images | copies) == [[name, f"{name} copy"] for name in images]


def test_a_ticked_box_or_another_word_makes_another_picture() -> None:
    image = screens(1)[0]
    ticked = image.copy()
    ticked.paste((0, 0, 0), (20, 200, 28, 208))
    looks = [look_of(image), look_of(ticked)]
    assert looks[0] is not None
    assert looks[1] is not None
    assert (looks[0].hash ^ looks[1].hash).bit_count() <= 4
    assert groups_of({"a": image, "b": ticked}) == []


def test_no_two_of_thousand_screens_are_taken_for_one() -> None:
    rows = Screens(train=1000, validation=0, test=0).rows()
    images = {row.id: Image.open(io.BytesIO(row.images[0])).convert("RGB") for row in rows}
    assert groups_of(images) == []


def test_pictures_of_one_colour_are_no_copies_of_one_another() -> None:
    assert look_of(Image.new("RGB", (40, 40), (200, 200, 200))) is None


def test_another_shape_or_other_colours_make_another_picture() -> None:
    image = screens(1)[0]
    flat = image.resize((image.width, image.height // 2))
    red, green, blue = image.split()
    turned = Image.merge("RGB", (blue.point(lambda v: v // 2), red, green))
    assert groups_of({"a": image, "b": flat}) == []
    assert groups_of({"a": image, "b": turned}) == []


def test_hash_pairs_are_those_of_the_plain_definition() -> None:
    generator = np.random.default_rng(0)
    base = generator.integers(0, 2**63, 60, dtype=np.uint64)
    near = base.copy()
    for i in range(len(near)):
        for bit in generator.choice(64, int(generator.integers(0, 12)), replace=False):
            near[i] ^= np.uint64(1) << np.uint64(bit)
    hashes = np.concatenate([base, near])
    plain = [
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if int(hashes[i] ^ hashes[j]).bit_count() <= 7
    ]
    left, right = hash_pairs(hashes)
    assert list(zip(left.tolist(), right.tolist(), strict=True)) == plain
    assert 20 < len(plain) < 60


def test_twenty_two_thousand_pictures_take_seconds() -> None:
    generator = np.random.default_rng(1)
    count = 22_000
    hashes = generator.integers(0, 2**63, count, dtype=np.uint64)
    hashes[count // 2 :] = hashes[: count // 2]
    thumbnails = generator.integers(0, 256, (count // 2, 16, 16, 3), dtype=np.uint8)
    looks = {
        str(i): Look(int(hashes[i]), 100, 100, thumbnails[i % (count // 2)]) for i in range(count)
    }
    picture = Image.fromarray(generator.integers(0, 256, (8, 8), dtype=np.uint8)).convert("RGB")
    started = time.monotonic()
    found = same_pictures(looks, lambda name: picture)
    assert time.monotonic() - started < 20
    assert len(found.groups) == 10_000
    assert found.not_compared == 1_000


def test_a_large_family_of_copies_is_compared_once_each() -> None:
    image = screens(1)[0]
    look = look_of(image)
    assert look is not None
    opened: list[str] = []

    def open_picture(name: str) -> Image.Image:
        opened.append(name)
        return image

    looks = {str(i): look for i in range(300)}
    assert len(same_pictures(looks, open_picture).groups[0]) == 300
    assert len(opened) <= 600


def test_block_difference_is_about_the_worst_block() -> None:
    grey = Image.new("L", (64, 64), 100)
    spot = grey.copy()
    spot.paste(160, (32, 32, 40, 40))
    assert block_difference(grey, grey) == 0
    assert 45 < block_difference(grey, spot) <= 60


class Made(Source):
    source: str = "made"
    given: tuple = ()

    def rows(self):
        yield from self.given

    def content_key(self):
        return None


def row(name: str, split: str, image: bytes, **fields: object) -> Row:
    values = {
        "messages": [{"role": "user", "content": fields.pop("prompt", "What?")}],
        "references": [f"Answer {name}."],
        **fields,
    }
    return Row(id=name, where=f"made:{name}", images=[image], split=split, **values)


@pytest.fixture
def rows() -> list[Row]:
    a, b, c, d = screens(4)
    return [
        row("train a", "train", stored(a)),
        row("train a jpeg", "train", stored(a, "JPEG", quality=80)),
        row("train a again", "train", stored(a), prompt="And this?"),
        row("train a other", "train", stored(a, "WEBP", quality=80), prompt="Where?"),
        row("train b", "train", stored(b)),
        row("train d", "train", stored(d)),
        row("pool c", "pool", stored(c), references=[]),
        row("pool d half", "pool", stored(scaled(d, 0.5)), references=[]),
        row("test b", "test", stored(scaled(b, 0.5))),
        row("test c", "test", stored(c, "JPEG", quality=70)),
        row("test b same file", "test", stored(scaled(b, 0.5)), prompt="Which?"),
    ]


def test_leaks_are_counted_warned_of_and_nothing_is_dropped(
    rows: list[Row], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        summary = prepare(Made(given=tuple(rows)), tmp_path)
    assert sum(summary["samples"].values()) == len(rows)
    assert summary["quarantined"] == summary["duplicates_dropped"] == 0
    found = json.loads((tmp_path / "statistics.json").read_text())["duplicate_images"]
    assert (found["groups"], found["copies"]) == (4, 5)
    assert [(x["split"], x["also_in"], x["samples"], x["of"]) for x in found["leaks"]] == [
        ("test", "train", 2, 3),
        ("test", "pool", 1, 3),
        ("train", "pool", 1, 6),
    ]
    assert found["leaks"][0]["first"] == [["test b", "train b"], ["test b same file", "train b"]]
    assert "2 of 3 test samples (66.7%) show a picture that train has too" in caplog.text
    assert not any("scores on train" in text for text in summary["warnings"])


def test_drop_takes_copies_out_of_the_training_side(rows: list[Row], tmp_path: Path) -> None:
    summary = prepare(Made(given=tuple(rows), duplicates="drop", max_broken_share=0), tmp_path)
    kept = [sample.id for sample in read_samples(tmp_path)]
    assert kept == [
        "train a",
        "train a again",
        "train a other",
        "train d",
        "test b",
        "test c",
        "test b same file",
    ]
    assert summary["duplicates_dropped"] == summary["quarantined"] == 4
    lines = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    assert {entry["id"]: entry["reason"] for entry in map(json.loads, lines)} == {
        "train a jpeg": "repeats train sample 'train a'",
        "train b": "shows a picture of test sample 'test b'",
        "pool c": "shows a picture of test sample 'test c'",
        "pool d half": "shows a picture of train sample 'train d'",
    }
    paths = {file.path for sample in read_samples(tmp_path) for file in sample.images}
    assert {f"images/{path.name}" for path in (tmp_path / "images").iterdir()} == paths
    assert not summary["warnings"]


def test_ignore_does_not_look(rows: list[Row], tmp_path: Path) -> None:
    summary = prepare(Made(given=tuple(rows), duplicates="ignore"), tmp_path)
    assert json.loads((tmp_path / "statistics.json").read_text())["duplicate_images"] is None
    assert not any("leak" in warning for warning in summary["warnings"])
