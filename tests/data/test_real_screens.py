"""Real screenshots with real captions through the whole data stage."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

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
