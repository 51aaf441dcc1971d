"""Pictures from the wild: each is opened right or quarantined with id and cause, within 1 GiB."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from limbeck.data.images import open_image
from limbeck.data.prepare import prepare
from limbeck.data.samples import read_samples
from limbeck.data.sources.jsonl import Jsonl
from limbeck.errors import DataError

RED, WHITE, GREEN, BLUE = (255, 0, 0), (255, 255, 255), (0, 128, 0), (0, 0, 255)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def picture(mode: str = "RGB", size: tuple[int, int] = (64, 48)) -> Image.Image:
    image = Image.new("RGB", size, RED)
    ImageDraw.Draw(image).rectangle((0, 0, size[0] // 2, size[1] // 2), BLUE)
    return image.convert(mode)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width: int, height: int, *, bits: int = 8, colour: int = 2) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)


def png_bomb(width: int, height: int) -> bytes:
    """A valid PNG of one bit a pixel: kilobytes on disk."""
    compressor = zlib.compressobj(9)
    line = b"\x00" * ((width + 7) // 8 + 1)
    body = b"".join(compressor.compress(line * 100) for _ in range(height // 100))
    body += compressor.flush()
    header = png_header(width, height, bits=1, colour=0)
    return header + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def gif_bomb() -> bytes:
    data = bytearray(encoded(picture("P"), "GIF"))
    data[6:10] = struct.pack("<HH", 60000, 60000)
    return bytes(data)


def bmp_bomb() -> bytes:
    data = bytearray(encoded(picture(), "BMP"))
    data[18:26] = struct.pack("<ii", 50000, 50000)
    return bytes(data)


def webp_animation() -> bytes:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (GREEN, RED)]
    return encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)


def webp_bomb() -> bytes:
    data = bytearray(webp_animation())
    assert data[12:16] == b"VP8X"
    data[24:30] = (16382).to_bytes(3, "little") * 2
    return bytes(data)


def png_text_bomb() -> bytes:
    text = chunk(b"zTXt", b"note\x00\x00" + zlib.compress(b"a" * 300_000_000, 9))
    data = encoded(picture(), "PNG")
    return data[:33] + text + data[33:]


JPEG, PNG = encoded(picture(), "JPEG", quality=95), encoded(picture(), "PNG")
NOISE = bytes(range(256)) * 16

REFUSED: dict[str, tuple[bytes, str]] = {
    "empty.png": (b"", "empty"),
    "one_byte.png": (b"\x89", "not a picture"),
    "noise.png": (NOISE, "not a picture"),
    "text.jpg": (b"just some text", "not a picture"),
    "page.png": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML page"),
    "page_short.jpg": (b"\n <html><body>no</body></html>", "HTML page"),
    "drawing.svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG drawing"),
    "drawing.png": (b"<?xml version='1.0'?><svg width='9'/>", "SVG drawing"),
    "feed.png": (b"<?xml version='1.0'?><rss/>", "XML file"),
    "paper.png": (b"%PDF-1.7\n", "PDF"),
    "script.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a picture"),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS"),
    "truncated_half.png": (PNG[: len(PNG) // 2], "cannot be decoded"),
    "truncated_head.png": (PNG[:20], "cannot be decoded"),
    "truncated_half.jpg": (JPEG[: len(JPEG) // 2], "cannot be decoded"),
    "truncated_head.jpg": (JPEG[:40], "cannot be decoded"),
    "truncated.webp": (encoded(picture(), "WEBP")[:-40], "image"),
    "truncated.gif": (encoded(picture("P"), "GIF")[:100], "cannot be decoded"),
    "truncated.tif": (encoded(picture(), "TIFF")[:200], "cannot be decoded"),
    "truncated.bmp": (encoded(picture(), "BMP")[:300], "cannot be decoded"),
    "header_only.png": (png_header(10, 10), "cannot be decoded"),
    "bad_sum.png": (PNG[:40] + b"\x00\x00\x00\x00" + PNG[44:], "cannot be decoded"),
    "zero_wide.png": (png_header(0, 10) + chunk(b"IDAT", b"") + chunk(b"IEND", b""), "image"),
    "bomb_50k.png": (png_bomb(50_000, 50_000), "too large"),
    "bomb_declared.png": (png_header(2**31 - 1, 2**31 - 1), "cannot be decoded"),
    "bomb_wide.png": (png_bomb(40_000, 100), "too large"),
    "bomb.gif": (gif_bomb(), "too large"),
    "bomb.webp": (webp_bomb(), "too large"),
    "bomb.bmp": (bmp_bomb(), "too large"),
    "bomb_text.png": (png_text_bomb(), "cannot be decoded"),
    "float.tif": (encoded(Image.new("F", (8, 8), 0.5), "TIFF"), "floating-point"),
    "grey_32_bit.tif": (encoded(Image.new("I", (8, 8), 70_000), "TIFF"), "32-bit"),
    "long_1_to_500.png": (encoded(Image.new("RGB", (500, 1), RED), "PNG"), "1:200"),
}


def palette_with_transparency() -> bytes:
    image = Image.new("P", (16, 16), 0)
    image.putpalette([255, 0, 0, 0, 128, 0])
    image.putpixel((15, 15), 1)
    return encoded(image, "PNG", transparency=0)


def animation() -> bytes:
    frames = [Image.new("RGB", (32, 32), colour) for colour in (GREEN, RED, BLUE)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def sixteen_bits() -> bytes:
    return encoded(Image.new("I;16", (16, 16), 257 * 100), "PNG")


OPENED: dict[str, tuple[bytes, tuple[int, int, int]]] = {
    "plain.png": (encoded(Image.new("RGB", (16, 16), GREEN), "PNG"), GREEN),
    "wrong_suffix.gif": (encoded(Image.new("RGB", (16, 16), GREEN), "PNG"), GREEN),
    "tiny.png": (encoded(Image.new("RGB", (1, 1), GREEN), "PNG"), GREEN),
    "long_1_to_200.png": (encoded(Image.new("RGB", (200, 1), GREEN), "PNG"), GREEN),
    "cmyk.jpg": (encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"), RED),
    "grey.png": (encoded(Image.new("L", (16, 16), 77), "PNG"), (77, 77, 77)),
    "one_bit.png": (encoded(Image.new("1", (16, 16), 1), "PNG"), WHITE),
    "sixteen_bits.png": (sixteen_bits(), (100, 100, 100)),
    "sixteen_bits.tif": (
        encoded(Image.new("I;16", (16, 16), 257 * 100), "TIFF"),
        (100, 100, 100),
    ),
    "palette.png": (encoded(Image.new("RGB", (16, 16), BLUE).convert("P"), "PNG"), BLUE),
    "palette_clear.png": (palette_with_transparency(), WHITE),
    "clear.png": (encoded(Image.new("RGBA", (16, 16), (0, 0, 0, 0)), "PNG"), WHITE),
    "half_clear.png": (encoded(Image.new("RGBA", (9, 9), (0, 0, 0, 51)), "PNG"), (204, 204, 204)),
    "grey_clear.png": (encoded(Image.new("LA", (16, 16), (0, 0)), "PNG"), WHITE),
    "key_colour.png": (encoded(Image.new("RGB", (9, 9), RED), "PNG", transparency=RED), WHITE),
    "clear.webp": (encoded(Image.new("RGBA", (9, 9), (0, 0, 0, 0)), "WEBP", exact=True), WHITE),
    "animated.gif": (animation(), GREEN),
    "animated.webp": (webp_animation(), GREEN),
    "picture.bmp": (encoded(Image.new("RGB", (16, 16), GREEN), "BMP"), GREEN),
    "picture.ppm": (encoded(Image.new("RGB", (16, 16), GREEN), "PPM"), GREEN),
    "two_pictures.mpo": (
        encoded(
            Image.new("L", (16, 16), 200),
            "MPO",
            save_all=True,
            append_images=[Image.new("L", (16, 16), 10)],
        ),
        (200, 200, 200),
    ),
}


def run(folder: Path, rows: list[dict], **options: object) -> tuple[dict[str, str], dict]:
    """Prepare rows; gives the reasons by id of what was quarantined, and samples by id."""
    (folder / "set").mkdir(exist_ok=True)
    path = folder / "set" / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    options = {"max_broken_share": 1.0, **options}
    prepare(Jsonl(path=str(path), **options), folder / "out")
    entries = (folder / "out" / "quarantine.jsonl").read_text().splitlines()
    quarantined = [json.loads(entry) for entry in entries]
    assert all(entry["where"].startswith(f"{path}:") for entry in quarantined)
    samples = {sample.id: sample for sample in read_samples(folder / "out")}
    return {entry["id"]: entry["reason"] for entry in quarantined}, samples


def test_each_hostile_file_is_quarantined_and_each_odd_one_opened(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for name, (data, _) in {**REFUSED, **OPENED}.items():
        (folder / name).write_bytes(data)
    assert len(REFUSED) + len(OPENED) >= 40
    rows = [{"id": name, "image": name} for name in {**REFUSED, **OPENED}]
    reasons, samples = run(tmp_path, rows)
    assert set(reasons) == set(REFUSED)
    assert set(samples) == set(OPENED)
    wrong = {n: reasons[n] for n, (_, cause) in REFUSED.items() if cause not in reasons[n]}
    assert not wrong
    for name, (_, colour) in OPENED.items():
        image = open_image(tmp_path / "out" / samples[name].images[0].path, where=name)
        assert image.mode == "RGB"
        assert image.getpixel((0, 0)) == colour, name


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(orientation: int, tmp_path: Path) -> None:
    """Corners of the stored picture, turned by definition of the tag, end where they belong."""
    upright = Image.new("RGB", (48, 32), WHITE)
    upright.paste(RED, (0, 0, 16, 16))
    upright.paste(BLUE, (32, 0, 48, 16))
    undo = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    stored = upright
    for turn in undo.get(orientation, []):
        stored = stored.transpose(turn)
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True} if kind == "WEBP" else {}
        (tmp_path / "a").write_bytes(encoded(stored, kind, exif=exif, **options))
        opened = open_image(tmp_path / "a", where="a")
        assert opened.size == (48, 32)
        assert opened.tobytes() == upright.tobytes()


def test_orientation_keeps_transparency_and_stored_size_is_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.new("P", (20, 10), 0)
    image.putpalette([255, 0, 0])
    (tmp_path / "set").mkdir()
    path = tmp_path / "set" / "a.png"
    path.write_bytes(encoded(image, "PNG", transparency=0, exif=exif))
    _, samples = run(tmp_path, [{"id": "a", "image": "a.png"}])
    assert (samples["a"].images[0].width, samples["a"].images[0].height) == (10, 20)
    assert open_image(path, where="a").getpixel((0, 0)) == WHITE


def test_paths_and_urls_that_leave_the_folder_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    secret = tmp_path / "secret.png"
    secret.write_bytes(PNG)
    (folder / "inside.png").write_bytes(PNG)
    (folder / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "good_link.png").symlink_to(folder / "inside.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "a_folder.png").mkdir()
    cases = {
        "../secret.png": "outside",
        "x/../../secret.png": "outside",
        str(secret): "outside",
        "/etc/passwd": "outside",
        "link.png": "outside",
        "linked/secret.png": "outside",
        f"file://{folder}/inside.png": "URL",
        "file:inside.png": "URL",
        "http://127.0.0.1/a.png": "URL",
        "HTTPS://example.org/a.png": "URL",
        "s3://bucket/a.png": "URL",
        "ftp://example.org/a.png": "URL",
        "pipe.png": "not a regular file",
        "a_folder.png": "not a regular file",
        "missing.png": "No such file",
        "nul\x00byte.png": "not usable",
        "n" * 5000: "image",
        "data:image/png;base64,!!!": "not base64",
        "data:image/png,plain": "not base64",
        "data:image/svg+xml;base64," + base64.b64encode(b"<svg/>").decode(): "SVG",
        "data:image/png;base64,": "empty",
        " ": "not a path",
    }
    good = {
        "relative": "inside.png",
        "dotted": "./x/../inside.png",
        "absolute": str(folder / "inside.png"),
        "link": "good_link.png",
        "data": "data:image/png;base64," + base64.b64encode(PNG).decode(),
    }
    rows = [{"id": f"bad {n}", "image": path} for n, path in enumerate(cases)]
    rows += [{"id": name, "image": path} for name, path in good.items()]
    reasons, samples = run(tmp_path, rows)
    assert set(samples) == set(good)
    for number, (path, cause) in enumerate(cases.items()):
        assert cause in reasons[f"bad {number}"], path


def test_image_root_opens_another_folder_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(PNG)
    (tmp_path / "b.png").write_bytes(PNG)
    rows = [{"id": "a", "image": "a.png"}, {"id": "b", "image": "../b.png"}]
    reasons, samples = run(tmp_path, rows, image_root=str(tmp_path / "pictures"))
    assert list(samples) == ["a"]
    assert "outside" in reasons["b"]


def test_too_many_broken_rows_stop_the_stage_and_stay_listed(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "good.png").write_bytes(PNG)
    rows = [{"id": str(n), "image": "bad.png" if n < 3 else "good.png"} for n in range(100)]
    with pytest.raises(DataError, match=r"3 of 100 rows .*No such file") as caught:
        run(tmp_path, rows, max_broken_share=0.02)
    assert caught.value.exit_code == 3
    assert "quarantine.jsonl" in str(caught.value)
    entries = (tmp_path / "out" / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(entry)["id"] for entry in entries] == ["0", "1", "2"]
    run(tmp_path, rows, max_broken_share=0.03)


def largest(kind: str, mode: str, height: int = 6300) -> Callable[[], bytes]:
    def make() -> bytes:
        options = {"compress_level": 1} if kind == "PNG" else {"method": 0}
        return encoded(Image.new(mode, (8192, height), 0), kind, **options)

    return make


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: png_bomb(50_000, 50_000), id="bomb"),
        pytest.param(largest("WEBP", "RGBA", 4300), id="largest_webp"),
        pytest.param(webp_bomb, id="bomb_webp"),
        pytest.param(largest("PNG", "RGBA"), id="largest_png"),
        pytest.param(largest("PNG", "I;16"), id="largest_16_bit"),
    ],
)
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_memory_stays_under_one_gib(make: Callable[[], bytes], tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(make())
    code = """
import sys
from pathlib import Path
from limbeck.data.images import open_image
from limbeck.errors import DataError
try:
    print(open_image(Path(sys.argv[1]), where="a").size)
except DataError as error:
    print(error)
status = Path("/proc/self/status").read_text()  # not rusage: that counts the parent's peak too
kib = int(status.split("VmHWM:")[1].split()[0])
assert kib < 2**20, f"{kib} KiB"
"""
    subprocess.run([sys.executable, "-c", code, str(path)], check=True, timeout=60)
