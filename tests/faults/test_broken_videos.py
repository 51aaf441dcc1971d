"""Mutated videos: frames or a DataError, whatever is in them."""

from __future__ import annotations

import io
import random
from pathlib import Path

import pytest
from PIL import Image

from limbeck.data.video import sample_frames
from limbeck.errors import DataError


def animation(kind: str) -> bytes:
    buffer = io.BytesIO()
    first, *rest = [Image.new("RGB", (48, 32), (25 * n, 90, 40)) for n in range(8)]
    first.save(buffer, kind, save_all=True, append_images=rest, duration=100)
    return buffer.getvalue()


def film(container: str) -> bytes:
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream("mpeg4", rate=5)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for n in range(10):
            picture = Image.new("RGB", (64, 48), (25 * n, 90, 40))
            output.mux(stream.encode(av.VideoFrame.from_image(picture)))
        output.mux(stream.encode())
    return buffer.getvalue()


def mutated(data: bytes, chance: random.Random) -> bytes:
    broken = bytearray(data)
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(broken))
        match chance.randrange(4):
            case 0:
                broken[place] = chance.randrange(256)
            case 1:
                del broken[place : place + chance.randint(1, 40)]
            case 2:
                broken[place : place + 4] = chance.choice((b"\xff\xff\xff\xff", bytes(4)))
            case _:
                broken = broken[: max(1, place)]
        if not broken:
            break
    return bytes(broken)


@pytest.mark.parametrize("name", ["GIF", "WEBP", "PNG", "mp4", "matroska", "avi"])
def test_mutated_videos_give_frames_or_a_data_error(name: str, tmp_path: Path):
    good = animation(name) if name.isupper() else film(name)
    chance = random.Random(name)
    refused: list[DataError] = []
    for number in range(150):
        data = mutated(good, chance)
        try:
            frames = sample_frames(data, 4, roots=[], where=f"{name} {number}")
        except DataError as error:
            refused.append(error)
            continue
        assert 1 <= len(frames) <= 4
        for frame in frames:
            assert Image.open(io.BytesIO(frame.data)).size <= (30_000, 30_000)
    assert 10 <= len(refused) < 150
    assert {error.where.partition(" ")[0] for error in refused if error.where} == {name}
    assert all(error.where for error in refused)
