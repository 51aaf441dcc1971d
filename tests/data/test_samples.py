"""Samples on disk come back as they were."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.data.samples import SAMPLES, read_samples, write_samples
from limbeck.errors import DataError
from limbeck.records import ImageFile, Sample

SAMPLES_MADE = [
    Sample(
        id=f"id {number} é 日本 \x00",
        split="test" if number % 3 == 0 else "train",
        messages=(
            {"role": "system", "content": [{"type": "text", "text": "\u202eabc\n"}]},
            {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Hi"}]},
        ),
        images=(ImageFile("images/a.png", "0" * 64, 3, 30_000),) * (number % 3),
        references=("one", "", "two")[: number % 4],
        metadata={"category": "x", "nested": {"a": [1, 2.5, None, True]}, "big": 10**25},
    )
    for number in range(2500)
]


def test_samples_come_back_exactly_and_in_order(tmp_path: Path) -> None:
    write_samples(tmp_path, SAMPLES_MADE)
    assert read_samples(tmp_path) == SAMPLES_MADE


def test_split_and_limit_keep_the_order(tmp_path: Path) -> None:
    write_samples(tmp_path, SAMPLES_MADE)
    expected = [sample for sample in SAMPLES_MADE if sample.split == "test"]
    assert read_samples(tmp_path, "test") == expected
    assert read_samples(tmp_path, "test", 7) == expected[:7]
    assert read_samples(tmp_path, limit=5) == SAMPLES_MADE[:5]


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    first = write_samples(tmp_path, SAMPLES_MADE[:50]).read_bytes()
    assert write_samples(tmp_path, SAMPLES_MADE[:50]).read_bytes() == first


def test_an_empty_split_is_refused_with_those_there_are(tmp_path: Path) -> None:
    write_samples(tmp_path, SAMPLES_MADE[:9])
    with pytest.raises(DataError, match=r"no samples in split 'validation'.*test, train"):
        read_samples(tmp_path, "validation")


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty", "other"])
def test_a_damaged_file_is_refused(damage: str, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = write_samples(tmp_path, SAMPLES_MADE[:50])
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "empty":
        path.write_bytes(b"")
    else:
        pq.write_table(pa.table({"split": ["train"]}), path)
    with pytest.raises(DataError, match="samples cannot be read") as caught:
        read_samples(tmp_path, "train")
    assert SAMPLES in str(caught.value)


def test_several_splits_are_read_in_the_order_of_the_file(tmp_path: Path) -> None:
    write_samples(tmp_path, SAMPLES_MADE[:9])
    both = read_samples(tmp_path, ("test", "train"))
    assert both == [s for s in read_samples(tmp_path) if s.split in ("test", "train")]
    assert {sample.split for sample in both} == {"train", "test"}
    assert read_samples(tmp_path, ["train"]) == read_samples(tmp_path, "train")
    assert read_samples(tmp_path, ("test", "train"), 2) == both[:2]
    with pytest.raises(DataError, match=r"no samples in split 'pool'"):
        read_samples(tmp_path, ("train", "pool"))
