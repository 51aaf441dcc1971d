"""Mutated rows and files: whatever is in them, samples or our own errors with the place, in order.

Seeded, so a failure can be run again; the `slow` version is ten times as long.
"""

from __future__ import annotations

import io
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from limbeck.data.messages import normalise
from limbeck.data.prepare import prepare
from limbeck.data.samples import read_samples
from limbeck.data.sources.jsonl import Jsonl
from limbeck.data.sources.parquet import Parquet
from limbeck.errors import DataError, LimbeckError

WEIRD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1.5, 10**30, "", " ", "\x00", "\ud800", "a" * 500, "<image>"),
    *([], {}, [None], [[]], {"": None}, [[[[[[]]]]]], {"type": "image"}, {"role": "user"}),
    *("data:image/png;base64,", "../../x", "http://x/y.png", "‮", "\n", [{}], {"a": [None]}),
    *("<video>", {"type": "video"}, "."),
)
GOOD_ROWS: tuple[dict[str, Any], ...] = (
    {
        "id": "a",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<image>\nWhat?"},
            {"role": "assistant", "content": "A square."},
        ],
        "images": ["good.png"],
        "references": ["A box.", "A square."],
        "metadata": {"difficulty": 3, "tags": ["x", None]},
        "split": "train",
    },
    {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "Compare"},
                    {"type": "image", "image": "good.png"},
                    {"type": "image_url", "image_url": {"url": "good.png"}},
                    {"type": "image"},
                ],
            }
        ],
        "images": ["good.png"],
        "captions": ["Both are red."],
    },
    {"conversations": [{"from": "human", "value": "Hello"}, {"from": "gpt", "value": "Hi"}]},
    {"image": "good.png", "caption": "red", "category": "colour", "split": "val"},
    {
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "video"},
                    {"type": "video", "video": "good.png"},
                    {"type": "text", "text": "What changed?"},
                ],
            }
        ],
        "videos": ["good.png"],
        "answer": "Nothing.",
    },
    {"video": "good.png", "answer": "red"},
)


def mutated(value: Any, chance: random.Random, depth: int = 0) -> Any:
    """A copy with a few places replaced, dropped, doubled or renamed."""
    if chance.random() < 0.06:
        return chance.choice(WEIRD)
    if isinstance(value, dict):
        items = []
        for key, item in value.items():
            roll = chance.random()
            if roll < 0.04:
                continue
            name = chance.choice(("", "typ", "image", "text", key.upper())) if roll < 0.07 else key
            items.append((name, mutated(item, chance, depth + 1)))
        return dict(items)
    if isinstance(value, list):
        copies = [mutated(item, chance, depth + 1) for item in value]
        if copies and chance.random() < 0.08:
            copies.insert(chance.randrange(len(copies) + 1), chance.choice([*copies, None]))
        if copies and chance.random() < 0.05:
            copies.pop(chance.randrange(len(copies)))
        return copies
    return value


def mutated_bytes(line: bytes, chance: random.Random) -> bytes:
    data = bytearray(line)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data) + 1)
        match chance.randrange(4):
            case 0:
                data[place : place + 1] = bytes([chance.randrange(256)])
            case 1:
                del data[place : place + chance.randint(1, 20)]
            case 2:
                data[place:place] = chance.choice(
                    (b"NaN", b"-Infinity", b"[" * 2000, b'{"a":' * 400, b"\xff\xfe", b"\x00", b"\r")
                )
            case _:
                data[place:place] = data[chance.randrange(len(data) + 1) :][:30]
    return bytes(data)


def good_picture(folder: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(buffer, "PNG")
    (folder / "good.png").write_bytes(buffer.getvalue())


def check_samples(folder: Path) -> int:
    samples = read_samples(folder)
    for sample in samples:
        assert sample.messages[-1]["role"] == "user"
        parts = [part for message in sample.messages for part in message["content"]]
        assert sum(part["type"] == "image" for part in parts) == len(sample.images)
        assert {frozenset(part) for part in parts} <= {
            frozenset({"type"}),
            frozenset({"type", "text"}),
        }
    return len(samples)


def fuzz_jsonl(folder: Path, cases: int, seed: int) -> None:
    chance = random.Random(seed)
    good_picture(folder)
    lines: list[bytes] = []
    for number in range(cases):
        row = dict(chance.choice(GOOD_ROWS), id=f"row {number}")
        if number % 2:
            lines.append(json.dumps(mutated(row, chance)).encode())
        else:
            line = mutated_bytes(json.dumps(row).encode(), chance)
            lines.append(line.replace(b"\n", b" ") or b"x")
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    source = Jsonl(path=str(path), max_broken_share=1.0)
    summary = prepare(source, folder / "out")
    kept = check_samples(folder / "out")
    entries = (folder / "out" / "quarantine.jsonl").read_text().splitlines()
    assert kept + len(entries) == sum(bool(line.strip()) for line in lines)
    assert summary["quarantined"] == len(entries)
    assert kept > cases / 20
    assert len(entries) > cases / 20
    for entry in map(json.loads, entries):
        assert re.fullmatch(rf"{re.escape(str(path))}:\d+", entry["where"])
        assert entry["reason"]
        assert len(entry["reason"]) <= 500
        assert len(entry["id"]) <= 300


def test_fuzzed_lines_are_samples_or_named_by_file_and_line(tmp_path: Path) -> None:
    fuzz_jsonl(tmp_path, 8000, seed=1)


@pytest.mark.slow
def test_fuzzed_lines_long(tmp_path: Path) -> None:
    fuzz_jsonl(tmp_path, 100_000, seed=2)


def test_fuzzed_messages_raise_only_data_errors_with_the_place() -> None:
    chance = random.Random(3)
    passed, errors = 0, []
    for _ in range(5000):
        row = mutated(chance.choice(GOOD_ROWS[:3]), chance)
        row = row if isinstance(row, dict) else {}
        messages = row.get("messages", row.get("conversations"))
        images = row.get("images")
        try:
            prompt, found, answers = normalise(
                messages,
                images if isinstance(images, list) else [],
                row.get("references"),
                where="rows.jsonl:7",
            )
        except DataError as error:
            errors.append(error)
            continue
        passed += 1
        parts = [part for turn in prompt for part in turn["content"]]
        assert sum(part["type"] == "image" for part in parts) == len(found)
        assert all(isinstance(answer, str) for answer in answers)
    assert passed > 500
    assert {error.where for error in errors} == {"rows.jsonl:7"}
    assert not [str(error) for error in errors if "\n" in str(error)]


def parquet_file(folder: Path, rows: list[dict[str, Any]]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = folder / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_fuzzed_parquet_files_are_read_or_refused_by_name(tmp_path: Path) -> None:
    chance = random.Random(4)
    rows = [
        {
            "id": str(number),
            "messages": GOOD_ROWS[0]["messages"],
            "images": [{"bytes": None, "path": "good.png"}],
            "caption": f"caption {number}",
            "score": [0.5, None, float("nan")][number % 3],
        }
        for number in range(20)
    ]
    path = parquet_file(tmp_path, rows)
    good_picture(tmp_path)
    source = Parquet(path=str(path))
    original = path.read_bytes()
    read, errors = 0, []
    for _ in range(900):
        path.write_bytes(mutated_bytes(original, chance))
        try:
            for row in source.rows():
                assert row.where.startswith(f"{path}:")
            read += 1
        except LimbeckError as error:
            errors.append(error)
    assert read > 20
    assert len(errors) > 50
    assert {error.exit_code for error in errors} == {3}
    assert all(str(path) in str(error) for error in errors)


def test_fuzzed_parquet_rows_are_samples_or_quarantined(tmp_path: Path) -> None:
    chance = random.Random(5)
    good_picture(tmp_path)
    kept, errors = 0, []
    for number in range(150):
        base = chance.choice(GOOD_ROWS[:2])
        rows = [
            {**base, "messages": json.dumps(mutated(base["messages"], chance)), "id": str(index)}
            for index in range(3)
        ]
        extra = chance.choice((None, b"bytes", 1.5, [b"x"], {"a": {"b": [None]}}))
        rows[0]["metadata"] = {"value": extra}
        try:
            path = parquet_file(tmp_path, rows)
        except (TypeError, ValueError):  # what Arrow cannot hold was never in a file
            continue
        output = tmp_path / f"out{number}"
        try:
            prepare(Parquet(path=str(path), max_broken_share=1.0), output)
        except DataError as error:
            errors.append(str(error))
            continue
        kept += check_samples(output)
    assert kept > 50
    assert all("rows are broken" in error for error in errors)
