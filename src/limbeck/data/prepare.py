"""The data stage: a source's rows become samples with verified pictures, or go into quarantine.

Writes `samples.parquet`, `images/<content hash>.<format>` (original bytes, each picture once),
`quarantine.jsonl` and `statistics.json`. All of it depends on the rows alone, so a run over a
half-made folder ends in the same bytes as an unbroken one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.data.duplicates import Look, SamePictures, look_of, same_pictures
from limbeck.data.images import open_image, probe_image, read_image
from limbeck.data.leaks import Pictures, superfluous
from limbeck.data.locate import locate_image
from limbeck.data.messages import normalise
from limbeck.data.samples import write_samples
from limbeck.data.sources import Row, Source
from limbeck.data.statistics import describe
from limbeck.data.video import sample_frames
from limbeck.errors import DataError
from limbeck.records import ImageFile, Sample
from limbeck.store import write_atomic, write_error, write_json

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGES = "images"
QUARANTINE = "quarantine.jsonl"
STATISTICS = "statistics.json"
MAX_ID_CHARACTERS = 300
MAX_REASON_CHARACTERS = 500
MAX_DEPTH = 50
NAME = re.compile(r"[\w.-]{1,100}")
"""What a split may be called: it goes into file names and tables."""

log = logging.getLogger(__name__)


def prepare(
    source: Source, output: Path, *, progress: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Make the data stage's folder; returns counts, licence and warnings for the manifest.

    Args:
        source: where the rows come from, with the options on splits, limits and quarantine.
        output: working folder; may hold what a killed run left.
        progress: called with the number of rows seen after each.

    Raises:
        DataError: the source cannot be read, has no usable row, or more than `max_broken_share` of
            its rows are broken (the quarantine file is kept then).
    """
    work = _Preparation(source, output)
    for seen, row in enumerate(source.rows(), start=1):
        work.take(row)
        if progress is not None:
            progress(seen)
    return work.finish()


@dataclass
class _Preparation:
    """What is known after the rows so far."""

    source: Source
    output: Path
    samples: list[Sample] = field(default_factory=lambda: [])
    quarantine: list[dict[str, str]] = field(default_factory=lambda: [])

    def __post_init__(self) -> None:
        self.roots: dict[int, list[Path]] = {}
        self.taken: Counter[tuple[int, str]] = Counter()
        self.places: dict[str, str] = {}
        self.stored: dict[str, ImageFile] = {}
        self.looks: dict[str, Look] = {}
        self.new_images: list[tuple[ImageFile, bytes, Look | None]] = []
        try:
            (self.output / IMAGES).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(self.output / IMAGES, error) from error

    def take(self, row: Row) -> None:
        """Add a row to the samples or to the quarantine, unless its split is full."""
        rules = row.source or self.source
        native = rules.split_of(row.split) if rules.splits == "native" else None
        if native is not None and self._full(rules, native):
            return
        self.new_images.clear()
        try:
            sample = self._sample(row, rules, native)
        except DataError as error:
            reason = " ".join(error.what.split())[:MAX_REASON_CHARACTERS]
            row_id = row.id[:MAX_ID_CHARACTERS]
            self.quarantine.append({"id": row_id, "where": row.where, "reason": reason})
            return
        if self._full(rules, sample.split):
            return
        for file, data, look in self.new_images:  # a failed write ends the run: not the row's fault
            _store(self.output / file.path, data, file.sha256)
            self.stored[file.sha256] = file
            if look is not None:
                self.looks[file.sha256] = look
        self.samples.append(sample)
        for source in {id(rules), id(self.source)}:
            self.taken[source, sample.split] += 1
        self.places[sample.id] = row.where

    def finish(self) -> dict[str, Any]:
        """Write everything, after the share of broken rows was found bearable."""
        self._write_quarantine()
        self._check_share()
        same = same_pictures(self.looks, self._open_stored)
        dropped = self._drop(same) if self.source.duplicates == "drop" else 0
        write_samples(self.output, self.samples)
        self._remove_strays()
        statistics = describe(
            self.samples,
            self.quarantine,
            licence=self.source.stated_licence(),
            same=None if self.source.duplicates == "ignore" else same,
        )
        write_json(self.output / STATISTICS, statistics)
        for warning in statistics["warnings"]:
            log.warning("%s", warning)
        return {
            "samples": statistics["splits"],
            "images": statistics["images"]["distinct"],
            "quarantined": len(self.quarantine),
            "duplicates_dropped": dropped,
            "licence": statistics["licence"],
            "warnings": statistics["warnings"],
        }

    def _write_quarantine(self) -> None:
        lines = [json.dumps(entry) + "\n" for entry in self.quarantine]
        write_atomic(self.output / QUARANTINE, "".join(lines))

    def _drop(self, same: SamePictures) -> int:
        """Put aside what `duplicates: drop` leaves out; these rows are not broken."""
        found = superfluous(Pictures(self.samples, same))
        for sample, reason in found:
            where = self.places[sample.id]
            short = reason[:MAX_REASON_CHARACTERS]
            self.quarantine.append({"id": sample.id, "where": where, "reason": short})
        left_out = {sample.id for sample, _ in found}
        self.samples = [sample for sample in self.samples if sample.id not in left_out]
        self._write_quarantine()
        return len(found)

    def _open_stored(self, digest: str) -> Image:
        path = self.output / self.stored[digest].path
        return open_image(path, where=str(path))

    def _full(self, rules: Source, split: str) -> bool:
        return any(
            source.limit is not None and self.taken[id(source), split] >= source.limit
            for source in (rules, self.source)
        )

    def _sample(self, row: Row, rules: Source, split: str | None) -> Sample:
        if row.error is not None:
            raise DataError(row.error)
        self._check_id(row)
        if split is not None and not NAME.fullmatch(split):
            raise DataError("split is not a short name of letters, digits and . _ -")
        metadata = plain(row.metadata)
        times: list[list[float | None]] = []

        def frames_of(video: Any) -> list[bytes]:
            roots = self._roots(rules)
            located = locate_image(video, roots, where=row.where, what="video")
            frames = sample_frames(located, row.frames, roots=roots, where=row.where)
            times.append([frame.seconds for frame in frames])
            return [frame.data for frame in frames]

        messages, found, references = normalise(
            *(row.messages, row.images, row.references),
            where=row.where,
            videos=row.videos,
            frames_of=frames_of,
        )
        if times:
            metadata["frame_seconds"] = times
        images = tuple(self._image(reference, rules, row.where) for reference in found)
        if split is None:
            split = _drawn_split(rules, row.id, images, metadata)
        return Sample(row.id, split, messages, images, references, metadata)

    def _check_id(self, row: Row) -> None:
        if not row.id.strip() or len(row.id) > MAX_ID_CHARACTERS:
            raise DataError(f"id is empty or longer than {MAX_ID_CHARACTERS} characters")
        plain(row.id)
        if row.id in self.places:
            raise DataError(f"id is already that of {self.places[row.id]}")

    def _roots(self, rules: Source) -> list[Path]:
        if id(rules) not in self.roots:
            self.roots[id(rules)] = rules.image_roots()
        return self.roots[id(rules)]

    def _image(self, reference: Any, rules: Source, where: str) -> ImageFile:
        """Verify a picture, once for each content; its bytes wait in `new_images`."""
        data = read_image(locate_image(reference, self._roots(rules), where=where), where=where)
        digest = hashlib.sha256(data).hexdigest()
        if (known := self.stored.get(digest)) is not None:
            _check_sides(known.width, known.height, rules.max_aspect_ratio)
            return known
        probe = probe_image(data, where=where)
        _check_sides(probe.width, probe.height, rules.max_aspect_ratio)
        path = f"{IMAGES}/{digest[:24]}{probe.suffix}"
        file = ImageFile(path, digest, probe.width, probe.height)
        look = None if self.source.duplicates == "ignore" else look_of(probe.image)
        self.new_images.append((file, data, look))
        return file

    def _check_share(self) -> None:
        broken, total = len(self.quarantine), len(self.quarantine) + len(self.samples)
        where = str(self.output / QUARANTINE)
        first = "; ".join(f"{e['where']}: {e['reason']}" for e in self.quarantine[:3])
        if total == 0:
            raise DataError("the source has no rows", mend="see data in the recipe")
        if broken > self.source.max_broken_share * total or not self.samples:
            raise DataError(
                f"{broken} of {total} rows are broken, more than data.max_broken_share "
                f"{self.source.max_broken_share:g} (first: {first:.600})",
                where=where,
                mend="mend the rows listed there, or raise data.max_broken_share",
            )

    def _remove_strays(self) -> None:
        """What a killed run or rows beyond the limit left among the images."""
        kept = {file.path for sample in self.samples for file in sample.images}
        for path in (self.output / IMAGES).iterdir():
            if f"{IMAGES}/{path.name}" not in kept:
                path.unlink()


def _drawn_split(
    source: Source, row_id: str, images: tuple[ImageFile, ...], metadata: dict[str, Any]
) -> str:
    """The split under `splits: hash`: the same for equal keys, whatever else is in the data."""
    by = source.hash_by or "image"
    if by == "image":
        key = images[0].sha256 if images else row_id
    elif by == "id":
        key = row_id
    elif by in metadata:
        key = json.dumps(metadata[by], sort_keys=True)
    else:
        raise DataError(f"row has no metadata {by!r} to draw its split by (data.hash_by)")
    point = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8]) / 2**64
    validation, test = source.shares
    return "test" if point < test else "validation" if point < test + validation else "train"


def _check_sides(width: int, height: int, max_aspect_ratio: float) -> None:
    if max(width, height) > min(width, height) * max_aspect_ratio:
        raise DataError(f"image is {width}×{height} pixels, sides beyond 1:{max_aspect_ratio:g}")


def _store(path: Path, data: bytes, digest: str) -> None:
    """Write a picture by rename, without a flush each: the store flushes the folder at its end.

    A torn file of a killed run is found by its hash.
    """
    try:
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() == digest:
            return
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise write_error(path, error) from error


def plain(value: Any, depth: int = 0) -> Any:
    """Metadata as JSON can hold it: dates as text, NaN as null, tuples as lists.

    Raises:
        DataError: a value that JSON cannot hold (bytes, objects), or text that is not Unicode.
    """
    if depth > MAX_DEPTH:
        raise DataError(f"metadata is nested deeper than {MAX_DEPTH}")
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError("a text holds half a character (lone surrogate)") from error
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, (list, tuple)):
        return [plain(item, depth + 1) for item in value]
    if isinstance(value, dict):
        return {plain(str(key)): plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, Decimal):
        return str(value)
    if hasattr(value, "isoformat"):
        return value.isoformat()
    raise DataError(f"metadata holds {type(value).__name__}, which is not text or a number")
