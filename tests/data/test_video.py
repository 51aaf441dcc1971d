"""Videos: which frames are taken, when they were, and what is refused."""

from __future__ import annotations

import io
import json
import struct
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from limbeck.data import images, video
from limbeck.data.prepare import prepare
from limbeck.data.samples import read_samples
from limbeck.data.sources.jsonl import Jsonl
from limbeck.data.video import sample_frames, spread
from limbeck.errors import DataError, LimbeckError, UsageError

SIZE = (32, 24)


def shade(number: int) -> tuple[int, int, int]:
    return (20 * number, 255 - 20 * number, 40)


def pictures(count: int) -> list[Image.Image]:
    return [Image.new("RGB", SIZE, shade(number)) for number in range(count)]


def animation(kind: str, count: int = 10, duration: int = 200) -> bytes:
    buffer = io.BytesIO()
    first, *rest = pictures(count)
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    first.save(buffer, kind, save_all=True, append_images=rest, duration=duration, **options)
    return buffer.getvalue()


def film(path: Path, count: int = 12, rate: int = 4, container: str = "mp4") -> Path:
    av = pytest.importorskip("av")
    with av.open(str(path), "w", format=container) as output:
        codec = "libvpx-vp9" if container == "webm" else "mpeg4"
        stream = output.add_stream(codec, rate=rate)
        stream.gop_size, stream.options = 50, {"sc_threshold": "1000000000"}
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(count):
            picture = Image.new("RGB", (64, 48), shade(number))
            output.mux(stream.encode(av.VideoFrame.from_image(picture)))
        output.mux(stream.encode())
    return path


def colour(data: bytes) -> tuple[int, ...]:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    return image.getpixel((image.width // 2, image.height // 2))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [(10, 4, [0, 3, 6, 9]), (10, 1, [5]), (3, 8, [0, 1, 2]), (1, 1, [0]), (100, 2, [0, 99])],
)
def test_frames_are_spread_from_the_first_to_the_last(total: int, count: int, expected: list[int]):
    assert spread(total, count) == expected


@pytest.mark.parametrize("total", [5, 17, 1000])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_spread_frames_are_ascending_and_as_many_as_asked(total: int, count: int):
    numbers = spread(total, count)
    assert len(set(numbers)) == count
    assert numbers == sorted(numbers)
    assert (numbers[0], numbers[-1]) == (0, total - 1)
    gaps = [b - a for a, b in pairwise(numbers)]
    assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animated_pictures_give_frames_with_their_times(kind: str):
    frames = sample_frames(animation(kind), 4, roots=[], where="x")
    assert [frame.number for frame in frames] == [0, 3, 6, 9]
    assert [frame.seconds for frame in frames] == [0.0, 0.6, 1.2, 1.8]
    for frame in frames:
        assert colour(frame.data) == pytest.approx(shade(frame.number), abs=8)


def test_a_folder_gives_frames_in_the_order_of_their_numbers(tmp_path: Path):
    for number, picture in enumerate(pictures(12)):
        picture.save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    frames = sample_frames(tmp_path, 3, roots=[tmp_path], where="x")
    assert [frame.number for frame in frames] == [0, 6, 11]
    assert [colour(frame.data) for frame in frames] == [shade(0), shade(6), shade(11)]
    assert [frame.seconds for frame in frames] == [None] * 3


@pytest.mark.parametrize("container", ["mp4", "matroska", "webm", "avi"])
def test_films_give_frames_with_their_times(container: str, tmp_path: Path):
    path = film(tmp_path / "film", container=container)
    for source in (path, path.read_bytes()):
        frames = sample_frames(source, 4, roots=[tmp_path], where="x")
        assert [frame.number for frame in frames] == [0, 4, 7, 11]
        assert [frame.seconds for frame in frames] == pytest.approx([0, 1, 1.75, 2.75], abs=0.01)
        for frame in frames:
            assert colour(frame.data) == pytest.approx(shade(frame.number), abs=16)


def test_a_film_that_does_not_say_how_long_it_is(tmp_path: Path):
    data = film(tmp_path / "film", container="webm").read_bytes()
    duration = data.index(b"\x44\x89\x88")
    data = data[:duration] + b"\xec" + data[duration + 1 :]  # of an element that means nothing
    frames = sample_frames(data.replace(b"DURATION", b"XURATION"), 4, roots=[], where="x")
    assert [frame.seconds for frame in frames] == pytest.approx([0, 1, 1.75, 2.75], abs=0.01)


def test_a_film_is_turned_as_the_phone_was_held(tmp_path: Path):
    data = bytearray(film(tmp_path / "film").read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40
    quarter = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    data[matrix : matrix + 36] = quarter
    [frame] = sample_frames(bytes(data), 1, roots=[], where="x")
    assert Image.open(io.BytesIO(frame.data)).size == (48, 64)


def test_a_film_without_pyav_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UsageError, match=r"PyAV.*limbeck\[video\]"):
        sample_frames(b"\0\0\0\x20ftypisom" + bytes(40), 2, roots=[], where="x")


def test_a_broken_film_is_refused(tmp_path: Path):
    good = film(tmp_path / "film").read_bytes()
    for data in (good[:200], good[:40] + bytes(len(good) - 40)):
        with pytest.raises(DataError, match="film"):
            sample_frames(data, 2, roots=[], where="x")


def refused(source: Path | bytes, roots: list[Path]) -> str:
    with pytest.raises(DataError) as caught:
        sample_frames(source, 4, roots=roots, where="row 3")
    assert caught.value.where == "row 3"
    return caught.value.what


def test_what_is_no_video_is_refused(tmp_path: Path):
    empty = tmp_path / "empty"
    empty.mkdir()
    assert "no pictures" in refused(empty, [tmp_path])
    assert "cannot read" in refused(tmp_path / "missing.mp4", [tmp_path])
    assert "not a picture" in refused(b"hello, I am text", [])
    assert "HTML" in refused(b"<!doctype html><p>404", [])
    assert "is empty" in refused(b"", [])
    assert "decoded" in refused(animation("GIF")[:60], [])


def test_a_frame_outside_the_data_set_is_refused(tmp_path: Path):
    inside, outside = tmp_path / "set" / "clip", tmp_path / "secret.png"
    inside.mkdir(parents=True)
    pictures(1)[0].save(outside)
    (inside / "1.png").symlink_to(outside)
    assert "outside the data set's folder" in refused(inside, [tmp_path / "set"])


def test_animations_that_would_take_too_long_are_refused(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(images, "MAX_ANIMATION_FRAMES", 9)
    assert "10 frames" in refused(animation("GIF"), [])
    monkeypatch.setattr(images, "MAX_ANIMATION_FRAMES", 20)
    monkeypatch.setattr(images, "MAX_ANIMATION_PIXELS", 9 * SIZE[0] * SIZE[1])
    assert "too large" in refused(animation("GIF"), [])
    monkeypatch.setattr(images, "MAX_ANIMATION_BYTES", 100)
    assert "more than" in refused(animation("GIF"), [])


def test_frames_of_a_film_have_the_size_limit_of_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = film(tmp_path / "film")
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    assert "image is too large" in refused(path, [tmp_path])


def test_a_film_too_far_from_a_key_frame_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = film(tmp_path / "film")
    monkeypatch.setattr(video, "MAX_DECODED_FRAMES", 3)
    assert "more than 3 frames" in refused(path, [tmp_path])


# Rows


def samples_of(folder: Path, rows: list[dict[str, Any]], **options: Any) -> list[Any]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = Jsonl(path=str(folder / "rows.jsonl"), **options)
    prepare(source, folder / "out")
    return read_samples(folder / "out")


def test_a_row_with_a_video_becomes_a_sample_of_several_pictures(tmp_path: Path):
    (tmp_path / "clip.gif").write_bytes(animation("GIF"))
    [sample] = samples_of(
        tmp_path, [{"video": "clip.gif", "answer": "green"}], frames=3, prompt="What is it?"
    )
    assert [part["type"] for part in sample.messages[0]["content"]] == [*["image"] * 3, "text"]
    assert sample.metadata["frame_seconds"] == [[0.0, 1.0, 1.8]]
    assert len({file.sha256 for file in sample.images}) == 3
    assert all((file.width, file.height) == SIZE for file in sample.images)


def test_placeholders_and_parts_put_videos_between_pictures(tmp_path: Path):
    (tmp_path / "clip.gif").write_bytes(animation("GIF"))
    pictures(1)[0].save(tmp_path / "still.png")
    chat = [
        {"role": "user", "content": "<image>\nThen <video>\nWhat changed?"},
        {"role": "assistant", "content": "The colour."},
    ]
    typed = [
        {
            "role": "user",
            "content": [
                {"type": "image"},
                {"type": "text", "text": "Then "},
                {"type": "video", "video": "clip.gif"},
                {"type": "text", "text": "What changed?"},
            ],
        }
    ]
    rows = [
        {"messages": chat, "images": ["still.png"], "videos": ["clip.gif"]},
        {"messages": typed, "images": ["still.png"], "answer": "The colour."},
    ]
    for sample in samples_of(tmp_path, rows, frames=2):
        kinds = [part["type"] for part in sample.messages[0]["content"]]
        assert kinds == ["image", "text", "image", "image", "text"]
        assert len(sample.images) == 3
        assert sample.references == ("The colour.",)


def test_without_videos_the_word_stays_text(tmp_path: Path):
    pictures(1)[0].save(tmp_path / "still.png")
    chat = [{"role": "user", "content": "<image>What does <video> mean?"}]
    [sample] = samples_of(tmp_path, [{"messages": chat, "image": "still.png", "answer": "A tag."}])
    assert sample.messages[0]["content"][1]["text"] == "What does <video> mean?"


def test_broken_videos_are_quarantined_with_id_and_cause(tmp_path: Path):
    (tmp_path / "clip.gif").write_bytes(animation("GIF"))
    (tmp_path / "torn.gif").write_bytes(animation("GIF")[:60])
    names = ["clip.gif", "torn.gif", "missing.gif", "../clip.gif", "https://example.org/a.mp4"]
    rows = [{"id": name, "video": name, "answer": "yes"} for name in names]
    samples = samples_of(tmp_path, rows, max_broken_share=0.9)
    assert [sample.id for sample in samples] == ["clip.gif"]
    lines = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    found = {row["id"]: row["reason"] for row in map(json.loads, lines)}
    assert set(found) == set(names[1:])
    for name, cause in zip(names[1:], ("decoded", "cannot read", "outside", "URL"), strict=True):
        assert cause in found[name]


def test_places_and_videos_must_be_as_many(tmp_path: Path):
    (tmp_path / "clip.gif").write_bytes(animation("GIF"))
    chat = [{"role": "user", "content": "<video><video> What?"}]
    with pytest.raises(LimbeckError, match="2 places for videos but the row has 1 videos"):
        samples_of(tmp_path, [{"messages": chat, "video": "clip.gif", "answer": "x"}])


def test_the_content_key_changes_with_a_frame_of_a_folder(tmp_path: Path):
    (tmp_path / "clip").mkdir()
    for number, picture in enumerate(pictures(2)):
        picture.save(tmp_path / "clip" / f"{number}.png")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"video": "clip", "answer": "x"}) + "\n")
    source = Jsonl(path=str(tmp_path / "rows.jsonl"))
    before = source.content_key()
    pictures(9)[8].resize((8, 8)).save(tmp_path / "clip" / "1.png")
    assert source.content_key() != before
