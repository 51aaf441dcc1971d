"""The only place that opens a picture: upright, RGB, within bounds, or a DataError that says why.

A picture is decoded in full before it counts as one. Its header is checked first, so that a small
file that unfolds into gigabytes is refused before a pixel is decoded: with the limits below every
format stays under 1 GiB of memory (WebP and AVIF keep several canvases while they decode).
"""

from __future__ import annotations

import contextlib
import io
import math
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from limbeck.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_PIXELS = 52_000_000
MAX_PIXELS_OF = {"WEBP": 36_000_000, "AVIF": 36_000_000}
MAX_SIDE_PIXELS = 30_000
MAX_FILE_BYTES = 128 * 2**20
MAX_ANIMATION_BYTES = 32 * 2**20
MAX_ANIMATION_FRAMES = 20_000
MAX_ANIMATION_PIXELS = 2_000_000_000
"""Of all frames together: what it may take to reach the last one."""

BLANK = (128, 128, 128)
"""What a blanked picture is filled with."""

SUFFIXES = {
    "AVIF": ".avif",
    "BMP": ".bmp",
    "GIF": ".gif",
    "JPEG": ".jpg",
    "MPO": ".jpg",
    "PNG": ".png",
    "PPM": ".ppm",
    "TIFF": ".tif",
    "WEBP": ".webp",
}
"""Formats that are opened. Others of Pillow's run outside programs or are no pictures."""

FILE_SUFFIXES = {*SUFFIXES.values(), ".jpeg", ".tiff"}
"""What picture files are called."""

_DISGUISES = (
    (b"<svg", "is an SVG drawing", "render it to PNG"),
    (b"<!doctype html", "is an HTML page", "download the picture itself"),
    (b"<html", "is an HTML page", "download the picture itself"),
    (b"<?xml", "is an XML file", "render it to PNG if it is an SVG drawing"),
    (b"%pdf", "is a PDF", "render its pages to PNG"),
    (b"version https://git-lfs", "is a Git LFS pointer", "run git lfs pull"),
)

_BEGINNINGS = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\x00", b"MM\x00*", b"BM")


@dataclass(frozen=True)
class Probe:
    """What a fully decoded picture is: its file suffix, its upright size in pixels, its pixels."""

    suffix: str
    width: int
    height: int
    image: Image = field(repr=False, compare=False)


def open_image(source: Path | bytes, *, where: str) -> Image:
    """The picture as upright RGB pixels.

    The EXIF orientation is applied, transparency is laid on white, the first frame of an animation
    is taken, and 16-bit grey is scaled (not clipped) to 8 bits.

    Raises:
        DataError: missing, empty, truncated, too large, or no picture; names `where`.
    """
    return _decode(read_image(source, where=where), where)[0]


def probe_image(data: bytes, *, where: str) -> Probe:
    """Decode a picture completely and say what it is.

    Raises:
        DataError: as `open_image`.
    """
    image, suffix = _decode(data, where)
    return Probe(suffix, image.width, image.height, image)


def read_image(source: Path | bytes, *, where: str) -> bytes:
    """The bytes of an image file, checked for size and for being a regular file.

    Raises:
        DataError: it cannot be read, is empty, or is larger than `MAX_FILE_BYTES`.
    """
    if isinstance(source, bytes):
        data, size = source, len(source)
    else:
        try:
            status = source.stat()
            if not stat.S_ISREG(status.st_mode):  # a pipe would block, a device never ends
                raise DataError(f"image {str(source)!r} is not a regular file", where=where)
            size = status.st_size
            data = source.read_bytes() if size <= MAX_FILE_BYTES else b""
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise DataError(f"cannot read image {str(source)!r} ({reason})", where=where) from error
    if size > MAX_FILE_BYTES:
        limit = MAX_FILE_BYTES // 2**20
        raise DataError(
            f"image file has {size / 2**20:.0f} MiB, above the limit of {limit}", where=where
        )
    if not data:
        raise DataError("image file is empty", where=where)
    return data


def animation_frames(
    data: bytes, chosen: Callable[[int], Sequence[int]], *, where: str
) -> list[tuple[int, float | None, bytes]]:
    """Some frames of an animated GIF, WebP or PNG: number, seconds from its start, PNG.

    Args:
        data: the file's bytes; a still picture is an animation of one frame.
        chosen: from how many frames there are to the numbers of those that are wanted, ascending.
        where: named by errors.

    Raises:
        DataError: as `open_image`, or there is too much of it.
    """
    if len(data) > MAX_ANIMATION_BYTES:
        limit = MAX_ANIMATION_BYTES // 2**20
        raise DataError(f"animation has more than {limit} MiB", where=where)
    found: list[tuple[int, float | None, bytes]] = []
    with _refusing_what_breaks(data, where), _opened(data) as image:
        if str(image.format) not in ("GIF", "WEBP", "PNG"):
            raise DataError(f"{image.format} pictures have no frames", where=where)
        _check_size(image.size, MAX_PIXELS_OF.get(str(image.format), MAX_PIXELS), where)
        total = int(getattr(image, "n_frames", 1))
        pixels = total * image.width * image.height
        if total > MAX_ANIMATION_FRAMES or (total > 1 and pixels > MAX_ANIMATION_PIXELS):
            raise DataError(
                f"animation is too large ({total} frames of {image.width}×{image.height} pixels)",
                where=where,
            )
        wanted = list(chosen(total))
        seconds = 0.0
        for number in range(wanted[-1] + 1):
            image.seek(number)
            image.load()
            if number in wanted:
                shown = round(seconds, 3) if total > 1 else None
                found.append((number, shown, encoded(_to_rgb(image, where), "PNG")))
            seconds += float(image.info.get("duration") or 0) / 1000
    return found


def encoded(image: Image, kind: Literal["PNG", "JPEG"]) -> bytes:
    """A picture as a file's bytes, without loss or (JPEG) with hardly any."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def check_size(width: int, height: int, *, where: str) -> None:
    """Refuse pictures that are too large to decode.

    Raises:
        DataError: with the limits.
    """
    _check_size((width, height), MAX_PIXELS, where)


def fit_pixels(image: Image, min_pixels: int | None, max_pixels: int | None) -> Image:
    """Scale a picture (bicubic) so that its area lies in [min_pixels, max_pixels].

    The aspect ratio is kept up to rounding: sides are rounded down when shrinking and up when
    enlarging, so that the area never oversteps the bound it was scaled for, and are at least one
    pixel. Where both bounds cannot hold, `max_pixels` does.
    """
    from PIL import Image as pillow

    width, height = image.size
    if min_pixels is not None and width * height < min_pixels:
        scale = math.sqrt(min_pixels / (width * height))
        width, height = math.ceil(width * scale), math.ceil(height * scale)
    if max_pixels is not None and width * height > max_pixels:
        scale = math.sqrt(max_pixels / (width * height))
        width, height = max(1, int(width * scale)), max(1, int(height * scale))
        if height == 1:  # a side that cannot shrink further leaves the bound to the other
            width = min(width, max_pixels)
        elif width == 1:
            height = min(height, max_pixels)
    if (width, height) == image.size:
        return image
    return image.resize((width, height), pillow.Resampling.BICUBIC)


def blank_image(image: Image) -> Image:
    """Grey of the same size."""
    from PIL import Image as pillow

    return pillow.new("RGB", image.size, (128, 128, 128))


def _decode(data: bytes, where: str) -> tuple[Image, str]:
    with _refusing_what_breaks(data, where):
        with _opened(data) as image:
            suffix = SUFFIXES[str(image.format)]
            _check_size(image.size, MAX_PIXELS_OF.get(str(image.format), MAX_PIXELS), where)
            image.load()
            upright = _upright(image)
        return _to_rgb(upright, where), suffix


def _opened(data: bytes) -> Image:
    from PIL import Image as pillow

    pillow.init()  # its rarer readers are loaded late
    formats = [name for name in SUFFIXES if name in pillow.OPEN]  # MPO comes through JPEG
    return pillow.open(io.BytesIO(data), formats=formats)


@contextlib.contextmanager
def _refusing_what_breaks(data: bytes, where: str) -> Iterator[None]:
    """Whatever a decoder raises becomes a DataError that says what is wrong with the file."""
    from PIL import Image as pillow

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of odd metadata; our own limits follow
            yield
    except DataError:
        raise
    except pillow.DecompressionBombError as error:
        raise DataError(f"image is too large ({error})", where=where) from error
    except pillow.UnidentifiedImageError as error:
        raise _not_a_picture(data, where) from error
    except (Exception, MemoryError) as error:  # decoders of broken files raise almost anything
        reason = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise DataError(f"image cannot be decoded ({reason})", where=where) from error


def _check_size(size: tuple[int, int], max_pixels: int, where: str) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise DataError(f"image has no pixels ({width}×{height})", where=where)
    if width * height > max_pixels or max(size) > MAX_SIDE_PIXELS:
        raise DataError(
            f"image is too large ({width}×{height} pixels)",
            where=where,
            mend=f"limits are {max_pixels / 1e6:.0f} megapixels and {MAX_SIDE_PIXELS} a side",
        )


def _not_a_picture(data: bytes, where: str) -> DataError:
    if data.startswith(_BEGINNINGS):
        return DataError("image cannot be decoded (its header is damaged)", where=where)
    start = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for mark, what, mend in _DISGUISES:
        if start.startswith(mark):
            svg = mark == b"<?xml" and b"<svg" in start
            return DataError(f"file {'is an SVG drawing' if svg else what}", where=where, mend=mend)
    return DataError(
        "file is not a picture in a known format",
        where=where,
        mend=f"known formats: {', '.join(SUFFIXES)}",
    )


def _upright(image: Image) -> Image:
    """Apply the EXIF orientation (tag 274); numbers outside 1 to 8 mean nothing and are ignored."""
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    turn = turns.get(image.getexif().get(0x0112, 1))
    if turn is None:
        return image
    turned = image.transpose(turn)
    turned.info = dict(image.info)  # transparency of a palette travels in it
    return turned


def _to_rgb(image: Image, where: str) -> Image:
    from PIL import Image as pillow

    if image.mode.startswith("I"):
        low, high = image.getextrema()
        if low < 0 or high > 65535:
            raise DataError(
                "image has 32-bit grey values", where=where, mend="convert it to 8 bits a channel"
            )
        return image.point(lambda value: value * (1 / 257)).convert("L").convert("RGB")
    if image.mode == "F":
        raise DataError(
            "image has floating-point pixels", where=where, mend="convert it to 8 bits a channel"
        )
    if image.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        ground = pillow.new("RGB", layered.size, "white")
        ground.paste(layered, mask=layered.getchannel("A"))
        return ground
    return image.convert("RGB") if image.mode != "RGB" else image.copy()
