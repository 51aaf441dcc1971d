"""Real screenshots with real captions through the whole data stage."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from limbeck.data.duplicates import look_of, same_pictures
from limbeck.data.images import open_image
from limbeck.data.prepare import prepare
from limbeck.data.samples import read_samples
from limbeck.data.sources.jsonl import Jsonl

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("LIMBECK_TEST_DATA", ROOT.parent / "shared" / "data")) / "screens"

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"no test data in {DATA}")


def source(**options: object) -> Jsonl:
    return Jsonl(
        path=str(DATA / "pairs.jsonl"),
        columns={"references": "captions", "category": "app", "metadata": ["section", "licence"]},
        **options,
    )


def test_all_screenshots_become_samples_in_their_splits(tmp_path: Path) -> None:
    started = time.monotonic()
    summary = prepare(source(), tmp_path)
    assert time.monotonic() - started < 15
    assert summary["samples"] == {"train": 990, "validation": 133, "test": 98}
    assert summary["quarantined"] == 0
    given = [json.loads(line) for line in (DATA / "pairs.jsonl").read_text().splitlines()]
    samples = read_samples(tmp_path)
    for row, sample in zip(given, samples, strict=True):
        assert sample.references == tuple(row["captions"])
        assert (sample.images[0].width, sample.images[0].height) == (row["width"], row["height"])
        assert sample.metadata["category"] == row["app"]
    statistics = json.loads((tmp_path / "statistics.json").read_text())
    assert sum(statistics["licences_of_rows"].values()) == 1221
    assert statistics["words_per_reference"]["quantiles"]["0.5"] == 4
    for sample in samples[::100]:
        assert open_image(tmp_path / sample.images[0].path, where=sample.id).mode == "RGB"


def test_a_few_screenshots_with_a_limit(tmp_path: Path) -> None:
    assert prepare(source(limit=10), tmp_path)["samples"] == {
        "train": 10,
        "validation": 10,
        "test": 10,
    }


def test_no_two_of_the_screenshots_are_taken_for_one_and_copies_are_found(tmp_path: Path) -> None:
    prepare(source(), tmp_path)
    found = json.loads((tmp_path / "statistics.json").read_text())["duplicate_images"]
    assert (found["groups"], found["copies"], found["leaks"]) == (0, 0, [])
    samples = read_samples(tmp_path)
    images = {s.id: open_image(tmp_path / s.images[0].path, where=s.id) for s in samples[::20]}
    smaller = {f"{k} copy": v.resize((v.width // 2, v.height // 2)) for k, v in images.items()}
    looks = {k: look for k, v in (images | smaller).items() if (look := look_of(v))}
    groups = same_pictures(looks, (images | smaller).__getitem__).groups
    assert groups == [[name, f"{name} copy"] for name in images]
