"""What every data source promises; a new file in limbeck/data/sources inherits these tests.

It needs one entry in EXAMPLES: a function that lays out a small data set and gives the options
that read it, and what changes that data set afterwards.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from limbeck.data.prepare import prepare
from limbeck.data.samples import read_samples
from limbeck.data.sources import Source
from limbeck.recipe.component import build_component, component_names

PACKAGE = "limbeck.data.sources"
NAMES = component_names(PACKAGE)


def png(shade: int = 0, size: tuple[int, int] = (40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (shade, 255 - shade, 40)).save(buffer, "PNG")
    return buffer.getvalue()


def jsonl(folder: Path) -> dict:
    rows = []
    for number in range(9):
        (folder / f"{number}.png").write_bytes(png(number))
        rows.append(
            {
                "id": f"row {number}",
                "messages": [
                    {"role": "user", "content": "<image>\nWhat is it?"},
                    {"role": "assistant", "content": f"Picture {number}."},
                ],
                "images": [f"{number}.png"],
                "split": ("train", "val", "test")[number % 3],
                "category": "even" if number % 2 else "odd",
            }
        )
    (folder / "rows.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return {"path": str(folder / "rows.jsonl")}


def change_jsonl(folder: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_text(path.read_text().replace("Picture 3.", "Picture three."))


def parquet(folder: Path) -> dict:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for split, start in (("train", 0), ("validation", 10), ("test", 20)):
        rows = [
            {
                "image": {"bytes": png(start + number), "path": f"{number}.png"},
                "caption": [f"Picture {start + number}.", "A colour."],
                "category": split,
            }
            for number in range(4)
        ]
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
    return {"path": str(folder), "columns": {"references": "caption"}}


def change_parquet(folder: Path) -> None:
    import pyarrow.parquet as pq

    path = folder / "data" / "test-00000-of-00001.parquet"
    pq.write_table(pq.read_table(path).slice(0, 3), path)


def screen2words(folder: Path) -> dict:
    """The columns, types and file names of rootsautomation/RICO-Screen2Words."""
    import datasets as ds

    features = ds.Features(
        {
            "screenId": ds.Value("int64"),
            "captions": ds.List(ds.Value("string")),
            "file_name": ds.Value("string"),
            "app_package_name": ds.Value("string"),
            "play_store_name": ds.Value("string"),
            "category": ds.Value("string"),
            "average_rating": ds.Value("float64"),
            "number_of_ratings": ds.Value("string"),
            "number_of_downloads": ds.Value("string"),
            "file_name_icon": ds.Value("string"),
            "file_name_semantic": ds.Value("string"),
            "semantic_annotations": ds.Value("string"),
            "view_hierarchy": ds.Value("string"),
            "image": ds.Image(),
            "image_icon": ds.Image(),
            "image_semantic": ds.Image(),
        }
    )
    card = ["---", "dataset_info:", "  splits:"]
    number = 0
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        card += [f"  - name: {split}", f"    num_examples: {count}"]
        rows = []
        for _ in range(count):
            number += 1
            rows.append(
                {
                    "screenId": number * 7,
                    "captions": [f"screen {number} in words {words}" for words in range(5)],
                    "file_name": f"{number}.jpg",
                    "app_package_name": "org.example.app",
                    "play_store_name": "Example",
                    "category": "Music & Audio" if number % 2 else "Tools",
                    "average_rating": 4.5 if number % 3 else None,
                    "view_hierarchy": "{}" * 1000,
                    "image": {"bytes": png(number, (90, 160)), "path": None},
                    "image_icon": {"bytes": b"never opened", "path": None},
                }
            )
        (folder / "data").mkdir(exist_ok=True)
        table = {name: [row.get(name) for row in rows] for name in features}
        path = folder / "data" / f"{split}-00000-of-00001.parquet"
        ds.Dataset.from_dict(table, features=features).to_parquet(path)
    card += ["configs:", "- config_name: default", "  data_files:"]
    for split in ("train", "val", "test"):
        card += [f"  - split: {split}", f"    path: data/{split}-*"]
    (folder / "README.md").write_text("\n".join([*card, "---", ""]))
    return {"name": str(folder)}


def change_card(folder: Path) -> None:
    (folder / "data" / "extra.txt").write_text("another file")


def hub(folder: Path) -> dict:
    """An image folder on the hub, labelled by metadata.jsonl."""
    for split in ("train", "test"):
        (folder / split).mkdir()
        lines = []
        for number in range(3):
            (folder / split / f"{number}.png").write_bytes(png(number + (50 if split[1] else 0)))
            lines.append(json.dumps({"file_name": f"{number}.png", "text": f"caption {number}"}))
        (folder / split / "metadata.jsonl").write_text("\n".join(lines))
    return {"name": str(folder)}


def change_hub(folder: Path) -> None:
    (folder / "train" / "0.png").write_bytes(png(200))


def folder_of_pictures(folder: Path) -> dict:
    for number in range(6):
        path = folder / ("train", "val", "test")[number % 3] / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(png(number))
        path.with_suffix(".txt").write_text(f"Picture {number}.\n")
    return {"path": str(folder)}


def change_folder(folder: Path) -> None:
    (folder / "train" / "0.txt").write_text("Another caption.")


def synthetic(folder: Path) -> dict:
    return {"train": 12, "validation": 3, "test": 5}


def first_person(folder: Path) -> dict:
    return {"train": 4, "described": 2, "validation": 1, "test": 2}


def ego_qa(folder: Path) -> dict:
    """The files of QaEgo4D, the one of the layouts with splits for training; clips as frames."""
    for split, numbers in (("train", (0, 1)), ("val", (2,)), ("test", (3,))):
        questions = []
        for number in numbers:
            clip = folder / "videos" / f"clip-{number}"
            clip.mkdir(parents=True)
            for frame in range(3):
                (clip / f"{frame}.png").write_bytes(png(10 * number + frame))
            questions.append(
                {
                    "video_id": f"clip-{number}",
                    "sample_id": f"annotation_{number}",
                    "question": "Where did I leave my keys?",
                    "answer": "on the table",
                    "moment_start_frame": 42,
                    "moment_end_frame": 53,
                }
            )
        (folder / f"annotations.{split}.json").write_text(json.dumps(questions))
    return {"layout": "qaego4d", "path": str(folder), "frames": 2}


def change_ego_qa(folder: Path) -> None:
    (folder / "videos" / "clip-1" / "2.png").write_bytes(png(99))


def mixed(folder: Path) -> dict:
    """Two sources, one of which has an id of the other."""
    (folder / "rows").mkdir()
    (folder / "pictures").mkdir()
    first, second = jsonl(folder / "rows"), folder_of_pictures(folder / "pictures")
    (folder / "pictures" / "train" / "row 0.png").write_bytes(png(77))
    (folder / "pictures" / "train" / "row 0.txt").write_text("One more.")
    return {"parts": [{"source": "jsonl", **first}, {"source": "folder", **second}]}


def change_mixed(folder: Path) -> None:
    change_folder(folder / "pictures")


EXAMPLES = {
    "mixed": (mixed, change_mixed),
    "jsonl": (jsonl, change_jsonl),
    "parquet": (parquet, change_parquet),
    "hub": (hub, change_hub),
    "screen2words": (screen2words, change_card),
    "folder": (folder_of_pictures, change_folder),
    "screens": (synthetic, None),
    "egocentric": (first_person, None),
    "ego_qa": (ego_qa, change_ego_qa),
}


@pytest.fixture(params=NAMES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Source:
    data = tmp_path / "set"
    data.mkdir()
    options = EXAMPLES[request.param][0](data)
    built = build_component(PACKAGE, "source", {"source": request.param, **options})
    assert isinstance(built, Source)
    return built


def test_two_passes_give_the_same_rows(source: Source) -> None:
    assert list(source.rows()) == list(source.rows())


def test_ids_are_unique_and_places_named(source: Source) -> None:
    rows = list(source.rows())
    assert rows
    assert len({row.id for row in rows}) == len(rows)
    assert all(row.where for row in rows)
    assert [row.error for row in rows] == [None] * len(rows)


def test_splits_have_our_names(source: Source) -> None:
    splits = {source.split_of(row.split) for row in source.rows()}
    assert splits <= {"train", "validation", "test"}
    assert {"train", "test"} <= splits


def test_every_row_becomes_a_sample(source: Source, tmp_path: Path) -> None:
    output = tmp_path / "out"
    summary = prepare(source, output)
    samples = read_samples(output)
    assert [sample.id for sample in samples] == [row.id for row in source.rows()]
    assert summary["quarantined"] == 0
    assert sum(summary["samples"].values()) == len(samples)
    for sample in samples:
        assert sample.messages[-1]["role"] == "user"
        places = [p for m in sample.messages for p in m["content"] if p["type"] == "image"]
        assert len(places) == len(sample.images) >= 1
        assert all((output / file.path).is_file() for file in sample.images)
        assert sample.references
        assert all(isinstance(text, str) and text.strip() for text in sample.references)


def test_content_key_is_stable_and_json(source: Source) -> None:
    assert source.content_key() == source.content_key()
    json.dumps(source.content_key())


@pytest.mark.parametrize("name", [name for name in NAMES if EXAMPLES[name][1]])
def test_content_key_changes_with_the_content(name: str, tmp_path: Path) -> None:
    make, change = EXAMPLES[name]
    source = build_component(PACKAGE, "source", {"source": name, **make(tmp_path)})
    before = source.content_key()
    change(tmp_path)
    assert source.content_key() != before


def test_options_survive_a_round_trip_through_json(source: Source) -> None:
    values = source.model_dump(mode="json")
    assert build_component(PACKAGE, "source", json.loads(json.dumps(values))) == source


def test_importing_a_source_loads_nothing_heavy() -> None:
    code = f"""
import importlib, sys
heavy = ("torch", "transformers", "datasets", "pyarrow", "PIL", "numpy", "huggingface_hub")
for name in {NAMES!r}:
    importlib.import_module("{PACKAGE}." + name)
    loaded = [module for module in heavy if module in sys.modules]
    assert not loaded, (name, loaded)
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
