"""Several sources as one: ids, splits, options, licences and limits of the parts."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from limbeck.data.prepare import prepare
from limbeck.data.samples import read_samples
from limbeck.data.sources.mixed import Mixed
from limbeck.errors import DataError, UsageError
from limbeck.recipe.component import build_component


def picture(path: Path, shade: int, size: tuple[int, int] = (20, 16)) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 255 - shade, 40)).save(buffer, "PNG")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


@pytest.fixture
def parts(tmp_path: Path) -> list[dict]:
    """Rows a, b (train) and c (test) with captions, and a folder of three pictures without."""
    rows = []
    for number, (name, split) in enumerate([("a", "train"), ("b", "train"), ("c", "test")]):
        picture(tmp_path / "labelled" / f"{name}.png", number)
        rows.append({"id": name, "image": f"{name}.png", "caption": f"Say {name}.", "split": split})
    lines = "\n".join(json.dumps(row) for row in rows)
    (tmp_path / "labelled" / "rows.jsonl").write_text(lines)
    for number in range(3):
        picture(tmp_path / "pool" / "train" / f"{number}.png", 100 + 20 * number)
    return [
        {"source": "jsonl", "path": str(tmp_path / "labelled" / "rows.jsonl")},
        {"source": "folder", "path": str(tmp_path / "pool"), "prompt": "What is it?"},
    ]


def mixed(parts: list[dict], **options: object) -> Mixed:
    built = build_component(
        "limbeck.data.sources", "source", {"source": "mixed", "parts": parts, **options}
    )
    assert isinstance(built, Mixed)
    return built


def test_a_part_may_be_an_unlabelled_folder_in_a_split_of_its_own(
    parts: list[dict], tmp_path: Path
) -> None:
    parts[1]["split"] = "unlabelled"
    summary = prepare(mixed(parts), tmp_path / "out")
    assert summary["samples"] == {"test": 1, "train": 2, "unlabelled": 3}
    pool = read_samples(tmp_path / "out", "unlabelled")
    assert [sample.id for sample in pool] == ["train/0.png", "train/1.png", "train/2.png"]
    assert all(sample.references == () for sample in pool)
    assert pool[0].messages[0]["content"][-1]["text"] == "What is it?"
    first = read_samples(tmp_path / "out", "train")[0]
    assert first.messages[0]["content"][-1]["text"] == "Describe this image."


def test_ids_that_clash_are_led_by_the_part_and_repeats_within_a_part_are_broken(
    parts: list[dict], tmp_path: Path
) -> None:
    path = Path(parts[0]["path"])
    path.write_text(path.read_text() + "\n" + path.read_text().split("\n")[0])
    source = mixed([parts[0], parts[0]], max_broken_share=0.5)
    summary = prepare(source, tmp_path / "out")
    assert [sample.id for sample in read_samples(tmp_path / "out")] == [
        *("a", "b", "c"),
        *("part2:a", "part2:b", "part2:c"),
    ]
    assert summary["quarantined"] == 2


def test_limits_hold_for_a_part_and_for_the_whole(parts: list[dict], tmp_path: Path) -> None:
    parts[1]["limit"] = 2
    source = mixed(parts, limit=3)
    assert prepare(source, tmp_path / "out")["samples"] == {"test": 1, "train": 3}
    parts[1]["limit"] = 1
    assert prepare(mixed(parts), tmp_path / "two")["samples"] == {"test": 1, "train": 3}


def test_every_part_keeps_its_own_rules(parts: list[dict], tmp_path: Path) -> None:
    picture(tmp_path / "pool" / "train" / "0.png", 5, size=(60, 10))
    parts[1]["max_aspect_ratio"] = 3
    parts[1] |= {"splits": "hash", "test_share": 0.9, "validation_share": 0, "hash_by": "id"}
    summary = prepare(mixed(parts, max_broken_share=0.5), tmp_path / "out")
    assert summary["quarantined"] == 1
    assert summary["samples"]["train"] >= 2
    assert sum(summary["samples"].values()) == 5


def test_a_part_may_not_read_pictures_of_another(parts: list[dict], tmp_path: Path) -> None:
    path = Path(parts[0]["path"])
    row = {"id": "x", "image": str(tmp_path / "pool" / "train" / "0.png"), "caption": "Stolen."}
    path.write_text(path.read_text() + "\n" + json.dumps(row))
    prepare(mixed(parts, max_broken_share=0.5), tmp_path / "out")
    entry = json.loads((tmp_path / "out" / "quarantine.jsonl").read_text())
    assert entry["id"] == "x"
    assert "outside the data set's folder" in entry["reason"]


def test_licences_of_all_parts_are_recorded(parts: list[dict], tmp_path: Path) -> None:
    parts[0]["licence"] = "CC-BY-4.0"
    summary = prepare(mixed(parts), tmp_path / "out")
    assert summary["licence"] == "CC-BY-4.0; none stated for part 2"
    statistics = json.loads((tmp_path / "out" / "statistics.json").read_text())
    assert statistics["licences_of_rows"] == {"CC-BY-4.0": 3}
    assert prepare(mixed(parts, licence="own"), tmp_path / "two")["licence"] == "own"
    parts[1]["licence"] = "MIT"
    assert mixed(parts).stated_licence() == "CC-BY-4.0; MIT"


def test_options_in_the_wrong_place_are_refused(parts: list[dict]) -> None:
    with pytest.raises(UsageError, match="option of the parts"):
        mixed(parts, splits="hash")
    with pytest.raises(UsageError, match="option of the whole mixture") as caught:
        mixed([{**parts[0], "duplicates": "drop"}])
    assert caught.value.where == "parts.0.duplicates"
    with pytest.raises(UsageError, match="mixed cannot stand in mixed"):
        mixed([{"source": "mixed", "parts": parts}])
    with pytest.raises(UsageError, match="exclude one another"):
        mixed([{**parts[0], "split": "x", "splits": "hash"}])
    with pytest.raises(UsageError):
        mixed([{**parts[0], "split": "a/b"}])


def test_a_leak_between_parts_is_dropped(parts: list[dict], tmp_path: Path) -> None:
    picture(tmp_path / "pool" / "train" / "0.png", 2)  # the picture of c, which is in test
    summary = prepare(mixed(parts, duplicates="drop"), tmp_path / "out")
    assert summary["duplicates_dropped"] == 1
    assert "train/0.png" not in {sample.id for sample in read_samples(tmp_path / "out")}


def test_a_missing_part_is_named(parts: list[dict]) -> None:
    with pytest.raises(DataError, match="folder not found"):
        mixed([parts[0], {**parts[1], "path": "nowhere"}]).content_key()
