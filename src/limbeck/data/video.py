"""Short videos as sampled frames: a folder of pictures, an animated picture, or a film.

Frames are spread evenly from the first to the last and become ordinary pictures of a sample.
Folders and animated GIF, WebP and PNG need nothing more; MP4, MOV, Matroska, WebM and AVI are
decoded by PyAV (`pip install 'limbeck[video]'`), from memory or an open file, so that what a film
refers to outside itself is never opened.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from limbeck.data.images import (
    FILE_SUFFIXES,
    animation_frames,
    check_size,
    encoded,
    read_image,
)
from limbeck.data.locate import locate_image
from limbeck.errors import DataError, UsageError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_FOLDER_FRAMES = 200_000
MAX_FILM_BYTES = 4 * 2**30
MAX_DECODED_FRAMES = 3_000
"""Between a film's key frame and the frame that is wanted."""

MAX_COUNTED_FRAMES = 20_000
"""Of a film that does not say how long it is."""

HEAD_BYTES = 16


@dataclass(frozen=True)
class Frame:
    """One frame: an image file's bytes, its number, and its seconds from the start if known."""

    data: bytes
    number: int
    seconds: float | None


def sample_frames(
    source: Path | bytes, count: int, *, roots: Sequence[Path], where: str
) -> list[Frame]:
    """At most `count` frames of a video in order; a shorter one gives all that it has.

    Args:
        source: a folder of frames (in the order of the numbers in their names), a file, or bytes.
        count: how many, at least one.
        roots: folders that the frames of a folder must be in.
        where: named by errors.

    Raises:
        DataError: missing, empty, broken, too large, or no video.
        UsageError: PyAV is needed and not installed.
    """
    if isinstance(source, Path) and os.path.isdir(source):  # which no odd name makes raise
        return _of_folder(source, count, roots, where)
    head = _head(source, where)
    if kind := _film_kind(head):
        return _of_film(source, kind, count, where)
    data = read_image(source, where=where)
    frames = animation_frames(data, lambda total: spread(total, count), where=where)
    return [Frame(picture, number, seconds) for number, seconds, picture in frames]


def spread(total: int, count: int) -> list[int]:
    """`count` numbers from 0 to total - 1 at equal distances, both ends among them.

    One alone is the middle; a total below the count gives every number.
    """
    if count >= total:
        return list(range(total))
    if count == 1:
        return [total // 2]
    return [(2 * i * (total - 1) + count - 1) // (2 * (count - 1)) for i in range(count)]


def _of_folder(folder: Path, count: int, roots: Sequence[Path], where: str) -> list[Frame]:
    try:
        names = [path.name for path in folder.iterdir() if path.suffix.lower() in FILE_SUFFIXES]
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot read folder {folder.name!r} ({reason})", where=where) from error
    names = sorted((name for name in names if not name.startswith(".")), key=_by_number)
    if not names:
        raise DataError(f"folder {folder.name!r} has no pictures to be frames", where=where)
    if len(names) > MAX_FOLDER_FRAMES:
        raise DataError(f"folder {folder.name!r} has {len(names)} pictures", where=where)
    frames: list[Frame] = []
    for number in spread(len(names), count):
        path = locate_image(str(folder / names[number]), roots, where=where)
        frames.append(Frame(read_image(path, where=where), number, None))
    return frames


def _by_number(name: str) -> tuple[list[tuple[int, str]], str]:
    """Sorts frame_2 before frame_10."""
    pieces = re.findall(r"\d+|\D+", name)
    return [(int(p), "") if p.isdecimal() and len(p) < 20 else (-1, p) for p in pieces], name


def _head(source: Path | bytes, where: str) -> bytes:
    if isinstance(source, bytes):
        return source[:HEAD_BYTES]
    try:
        if source.is_file():
            with source.open("rb") as stream:
                return stream.read(HEAD_BYTES)
    except (OSError, ValueError):
        pass
    return read_image(source, where=where)[:HEAD_BYTES]  # which says what is wrong with it


def _film_kind(head: bytes) -> str | None:
    """FFmpeg's name of the container, by the file's first bytes."""
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free") and head[8:12] not in (
        b"avif",
        b"avis",
    ):
        return "mov"
    if head.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"
    return "avi" if head.startswith(b"RIFF") and head[8:12] == b"AVI " else None


def _of_film(source: Path | bytes, kind: str, count: int, where: str) -> list[Frame]:
    try:
        import av
    except ImportError as error:
        raise UsageError(
            "films are decoded by PyAV, which is not installed",
            where=where,
            mend="pip install 'limbeck[video]', or extract the frames into folders",
        ) from error
    if isinstance(source, Path) and source.stat().st_size > MAX_FILM_BYTES:
        raise DataError(f"film has more than {MAX_FILM_BYTES // 2**30} GiB", where=where)
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        try:
            return _decoded(stream, kind, count, where)
        except (av.FFmpegError, ArithmeticError, LookupError, ValueError, MemoryError) as error:
            raise DataError(
                f"film cannot be decoded ({type(error).__name__}: {error})", where=where
            ) from error


def _decoded(stream: BinaryIO, kind: str, count: int, where: str) -> list[Frame]:
    import av

    with av.open(stream, mode="r", format=kind, metadata_errors="ignore") as film:
        if not film.streams.video:
            raise DataError("film has no pictures", where=where)
        video: Any = film.streams.video[0]
        if video.codec_context is None:
            raise DataError("film has pictures in a coding that PyAV does not know", where=where)
        check_size(video.width, video.height, where=where)
        step = float(1 / (video.average_rate or video.guessed_rate or 25))
        ticks = video.duration * video.time_base if video.duration else None
        length = float(ticks if ticks is not None else (film.duration or 0) / 1_000_000)
        start = float((video.start_time or 0) * video.time_base)
        if not length:  # browsers record films that do not say how long they are
            length = _last_time(film, video) - start + step
        frames: list[Frame] = []
        for number in spread(max(1, round(length / step)), count):
            found = _frame_at(film, video, start + number * step, step)
            if found is None:
                continue
            check_size(found.width, found.height, where=where)
            seconds = round(float(found.time or 0.0) - start, 3)
            frames.append(Frame(encoded(_upright(found), "JPEG"), number, seconds))
    if not frames:
        raise DataError("film has no frame that can be decoded", where=where)
    return frames


def _last_time(film: Any, video: Any) -> float:
    times = [float(frame.time or 0) for frame in _bounded(film.decode(video), MAX_COUNTED_FRAMES)]
    return max(times, default=0.0)


def _frame_at(film: Any, video: Any, time: float, step: float) -> Any:
    """The first frame that is not before a time, or the last one there is."""
    film.seek(int(time / video.time_base), stream=video, backward=True)
    last = None
    for frame in _bounded(film.decode(video), MAX_DECODED_FRAMES):
        last = frame
        if frame.time is not None and frame.time >= time - step / 2:
            break
    return last


def _bounded(frames: Iterator[Any], most: int) -> Iterator[Any]:
    for number, frame in enumerate(frames):
        if number >= most:
            raise ValueError(f"more than {most} frames would have to be decoded for one")
        yield frame


def _upright(frame: Any) -> Image:
    """The frame as RGB, turned as the film says (phones store how they were held)."""
    image = frame.to_image()
    turn = getattr(frame, "rotation", 0)
    return image.rotate(turn, expand=True) if turn else image
