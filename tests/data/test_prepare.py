"""The data stage: what it writes, what it keeps apart, and that a broken-off run ends the same."""

from __future__ import annotations

import errno
import io
import json
from collections import Counter
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from PIL import Image

import limbeck.data.prepare as stage
from limbeck.data.prepare import plain, prepare
from limbeck.data.samples import read_samples
from limbeck.data.sources import Row, Source
from limbeck.data.sources.jsonl import Jsonl
from limbeck.errors import DataError, UsageError
from limbeck.recipe.component import build_component


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8 + shade % 5, 6), (shade % 256, shade // 256, 9)).save(buffer, "PNG")
    return buffer.getvalue()


class Made(Source):
    """Rows from a list, for these tests."""

    source: str = "made"
    given: tuple = ()

    def rows(self):
        yield from self.given

    def content_key(self):
        return None


def row(number: int, **fields: object) -> Row:
    values = {
        "id": f"r{number}",
        "where": f"made:{number}",
        "messages": [{"role": "user", "content": "What?"}],
        "images": [png(number)],
        "references": [f"Answer {number}."],
        **fields,
    }
    return Row(**values)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_original_bytes_are_kept_once_by_content_hash(tmp_path: Path) -> None:
    rows = [row(1), row(2, images=[png(1)]), row(3)]
    summary = prepare(Made(given=rows), tmp_path)
    samples = read_samples(tmp_path)
    assert samples[0].images == samples[1].images
    file = samples[0].images[0]
    assert (tmp_path / file.path).read_bytes() == png(1)
    assert file.path == f"images/{file.sha256[:24]}.png"
    assert (file.width, file.height) == (9, 6)
    assert summary["images"] == len(list((tmp_path / "images").iterdir())) == 2


def test_a_half_made_folder_ends_in_the_same_bytes(tmp_path: Path) -> None:
    rows = [row(number, split="test" if number % 4 == 0 else None) for number in range(20)]
    rows.append(row(99, error="broken"))
    source = Made(given=rows, max_broken_share=0.5)
    prepare(source, tmp_path / "whole")
    half = tmp_path / "half"

    class Killed(BaseException):
        pass

    def kill(seen: int) -> None:
        if seen == 7:
            raise Killed

    with pytest.raises(Killed):
        prepare(source, half, progress=kill)
    torn = sorted((half / "images").iterdir())[0]
    torn.write_bytes(torn.read_bytes()[:20])
    (half / "images" / ".x.png.123.tmp").write_bytes(b"left over")
    (half / "images" / "stray.png").write_bytes(b"left over")
    prepare(source, half)
    assert contents(half) == contents(tmp_path / "whole")


def test_doubled_ids_are_quarantined_with_the_first_place(tmp_path: Path) -> None:
    prepare(Made(given=[row(1), row(2, id="r1")], max_broken_share=0.5), tmp_path)
    entry = json.loads((tmp_path / "quarantine.jsonl").read_text())
    assert entry == {"id": "r1", "where": "made:2", "reason": "id is already that of made:1"}
    assert [sample.references for sample in read_samples(tmp_path)] == [("Answer 1.",)]


def test_limit_counts_samples_of_each_split_and_not_broken_ones(tmp_path: Path) -> None:
    splits = ["train", "train", "train", "train", "val", "test", "test", "test"]
    rows = [row(number, split=split) for number, split in enumerate(splits)]
    rows[0].error = "broken"
    summary = prepare(Made(given=rows, limit=2, max_broken_share=0.5), tmp_path)
    assert summary["samples"] == {"train": 2, "validation": 1, "test": 2}
    assert [s.id for s in read_samples(tmp_path)] == ["r1", "r2", "r4", "r5", "r6"]


def test_pictures_beyond_the_limit_are_not_kept(tmp_path: Path) -> None:
    rows = [row(number) for number in range(40)]
    prepare(Made(given=rows, limit=3, splits="hash"), tmp_path)
    kept = {file.path for sample in read_samples(tmp_path) for file in sample.images}
    assert {f"images/{path.name}" for path in (tmp_path / "images").iterdir()} == kept


def test_hash_splits_are_stable_under_order_and_addition(tmp_path: Path) -> None:
    rows = [row(number) for number in range(400)]
    prepare(Made(given=rows[:200], splits="hash"), tmp_path / "a")
    prepare(Made(given=rows[::-1], splits="hash"), tmp_path / "b")
    first = {sample.id: sample.split for sample in read_samples(tmp_path / "a")}
    second = {sample.id: sample.split for sample in read_samples(tmp_path / "b")}
    assert all(second[name] == split for name, split in first.items())
    counts = Counter(second.values())
    assert counts["train"] == pytest.approx(320, abs=30)
    assert counts["validation"] == pytest.approx(40, abs=20)
    assert counts["test"] == pytest.approx(40, abs=20)


@pytest.mark.parametrize("by", ["image", "page"])
def test_hash_splits_keep_equal_keys_together(by: str, tmp_path: Path) -> None:
    rows = [
        row(
            number,
            images=[png(number % 30 if by == "image" else number)],
            metadata={"page": number % 30},
        )
        for number in range(120)
    ]
    prepare(Made(given=rows, splits="hash", hash_by=by, test_share=0.4), tmp_path)
    found: dict[int, set[str]] = {}
    for sample in read_samples(tmp_path):
        found.setdefault(int(sample.id[1:]) % 30, set()).add(sample.split)
    assert all(len(splits) == 1 for splits in found.values())
    assert len({split for splits in found.values() for split in splits}) > 1


def test_one_picture_in_two_splits_is_warned_of(tmp_path: Path) -> None:
    rows = [row(1, split="train"), row(2, split="test", images=[png(1)]), row(3, split="test")]
    summary = prepare(Made(given=rows), tmp_path)
    statistics = json.loads((tmp_path / "statistics.json").read_text())
    assert statistics["images_in_several_splits"]["count"] == 1
    first = statistics["images_in_several_splits"]["first"][0]
    assert first["samples"] == {"train": "r1", "test": "r2"}
    assert "1 of 2 test samples (50.0%) show a picture that train has too" in summary["warnings"][0]


def test_no_rows_at_all_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no rows"):
        prepare(Made(), tmp_path)


def test_only_broken_rows_is_an_error_whatever_the_share(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 1 rows"):
        prepare(Made(given=[row(1, error="x")], max_broken_share=1.0), tmp_path)


def test_a_full_disk_ends_the_run_and_blames_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(DataError, match=r"images/.*No space left.*free disk space"):
        prepare(Made(given=[row(1)], max_broken_share=1.0), tmp_path)


def test_metadata_becomes_json_or_a_reason(tmp_path: Path) -> None:
    metadata = {"when": date(2024, 2, 3), "price": Decimal("1.50"), "score": float("nan"), 3: (1,)}
    bad = row(2, metadata={"blob": b"x"})
    prepare(Made(given=[row(1, metadata=metadata), bad], max_broken_share=0.5), tmp_path)
    assert read_samples(tmp_path)[0].metadata == {
        "when": "2024-02-03",
        "price": "1.50",
        "score": None,
        "3": [1],
    }
    assert "metadata holds bytes" in (tmp_path / "quarantine.jsonl").read_text()


def test_deep_metadata_is_refused_before_it_overflows() -> None:
    value: list = []
    for _ in range(900):
        value = [value]
    with pytest.raises(DataError, match="nested deeper"):
        plain(value)


def test_statistics_count_what_is_there(tmp_path: Path) -> None:
    rows = [
        row(n, references=["one two three", "four"][: n % 3], metadata={"category": "ab"[n % 2]})
        for n in range(6)
    ]
    rows += [
        row(9, error="cannot read image 'a1.png' (gone)"),
        row(10, error="cannot read image 'b.png' (gone)"),
    ]
    prepare(Made(given=rows, max_broken_share=0.9, licence="CC0"), tmp_path)
    statistics = json.loads((tmp_path / "statistics.json").read_text())
    assert statistics["samples"] == 6
    assert statistics["splits"] == {"train": 6}
    assert statistics["categories"] == {"train": {"a": 3, "b": 3}}
    assert statistics["licence"] == "CC0"
    assert statistics["references_per_sample"] == {"0": 2, "1": 2, "2": 2}
    words = statistics["words_per_reference"]
    assert (words["n"], words["quantiles"]["0"], words["quantiles"]["1"]) == (6, 1, 3)
    assert sum(words["histogram"]["counts"]) == 6
    assert statistics["images"]["height_pixels"]["quantiles"]["0.5"] == 6
    assert statistics["quarantined"]["reasons"] == {"cannot read image '…' (gone)": 2}
    assert "2 of 6 samples have no reference" in statistics["warnings"]


def test_options_that_nothing_would_read_are_refused() -> None:
    with pytest.raises(UsageError, match="test_share needs splits: hash"):
        build_component("limbeck.data.sources", "source", {"source": "screens", "test_share": 0.2})
    with pytest.raises(UsageError, match="exactly one of path and paths"):
        build_component("limbeck.data.sources", "source", {"source": "jsonl"})


def test_a_row_that_breaks_names_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n\n{"messages": 3}\n')
    prepare(Jsonl(path=str(path), max_broken_share=0.5), tmp_path / "out")
    entry = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert entry["where"] == f"{path}:3"
    assert entry["id"] == "row-3"
    assert [s.id for s in read_samples(tmp_path / "out")] == ["row-1"]


def test_stage_names_are_what_readers_look_for() -> None:
    assert (stage.QUARANTINE, stage.STATISTICS) == ("quarantine.jsonl", "statistics.json")
