"""The data stage: pictures decoded once, at one size, and no test picture in train."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from limbeck.data.duplicates import Look, look_of, same_pictures
from limbeck.encoders.guards import check_leaks
from limbeck.encoders.sources import SPLITS, EncoderSource, Picture
from limbeck.errors import DataError
from limbeck.progress import meter
from limbeck.store import write_json

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Examples:
    """A finished data stage: pixels [N, S, S, 3] and, for each row, split, label, captions."""

    task: str
    pixels: np.ndarray
    rows: list[dict[str, Any]]
    classes: list[str]
    prompts: list[str]

    def of(self, split: str) -> np.ndarray:
        """Row numbers of a split."""
        return np.array([i for i, row in enumerate(self.rows) if row["split"] == split])

    @property
    def labels_N(self) -> np.ndarray:
        """Class numbers; -1 where there is none."""
        return np.array([-1 if row["label"] is None else row["label"] for row in self.rows])

    def captions(self) -> tuple[list[str], np.ndarray]:
        """All captions, and the row that each belongs to."""
        said = [(text, i) for i, row in enumerate(self.rows) for text in row["captions"]]
        return [text for text, _ in said], np.array([i for _, i in said], np.int64)


def prepare_examples(source: EncoderSource, output: Path) -> dict[str, Any]:
    """Write `images.npy`, `examples.json` and what was left out.

    Raises:
        DataError: a split is empty, too many pictures are broken, or the task lacks what it needs.
        GuardError: test pictures are in train too (duplicates: fail).
    """
    chosen = _limited(list(source.pictures()), source)
    size = source.image_size
    pixels = np.zeros((len(chosen), size, size, 3), np.uint8)
    kept: list[int] = []
    looks: dict[str, Look] = {}
    broken: list[dict[str, str]] = []
    with meter("pictures", len(chosen)) as bar:
        for number, picture in enumerate(chosen):
            try:
                image = _fitted(picture.open(), source)
            except DataError as error:
                broken.append({"id": picture.id, "reason": str(error)})
            else:
                pixels[number] = np.asarray(image)
                kept.append(number)
                if (look := look_of(image)) is not None:
                    looks[str(number)] = look
            bar.advance()
    if len(broken) > source.max_broken_share * len(chosen):
        raise DataError(
            f"{len(broken)} of {len(chosen)} pictures are broken, the first: {broken[0]['reason']}",
            where=source.source,  # type: ignore[attr-defined]
            mend="mend them, or raise max_broken_share",
        )
    leaking = _leaks(chosen, kept, pixels, looks)
    if source.duplicates == "fail":
        names = [(chosen[test].id, chosen[train].id) for test, train in leaking]
        check_leaks(names, where="datasets")
    left_out = {train for _, train in leaking}
    kept = [number for number in kept if number not in left_out]
    labels = [chosen[number].label for number in kept]
    classes = sorted({label for label in labels if label is not None})
    _check(source, [chosen[number] for number in kept], classes)
    rows = [
        {
            "id": chosen[number].id,
            "split": chosen[number].split,
            "label": None if label is None else classes.index(label),
            "captions": list(chosen[number].captions),
        }
        for number, label in zip(kept, labels, strict=True)
    ]
    np.save(output / "images.npy", pixels[kept], allow_pickle=False)
    content = {
        "task": source.chosen_task,
        "classes": classes,
        "prompts": [source.prompt.replace("{label}", name) for name in classes],
        "examples": rows,
    }
    write_json(output / "examples.json", content)
    write_json(output / "broken.json", broken)
    counts = {split: sum(row["split"] == split for row in rows) for split in SPLITS}
    return {
        **counts,
        "task": source.chosen_task,
        "classes": len(classes),
        "broken": len(broken),
        "left_out_of_train": len(left_out),
    }


def read_examples(folder: Path) -> Examples:
    """A finished data stage; pixels are mapped, not read."""
    content = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    pixels = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    return Examples(
        content["task"], pixels, content["examples"], content["classes"], content["prompts"]
    )


def _limited(pictures: list[Picture], source: EncoderSource) -> list[Picture]:
    if source.limit is None:
        return pictures
    found: list[Picture] = []
    for split in SPLITS:
        own = [picture for picture in pictures if picture.split == split]
        stream = random.Random(f"{source.seed} {split}")
        drawn = sorted(stream.sample(range(len(own)), min(source.limit, len(own))))
        found += [own[i] for i in drawn]
    return found


def _fitted(image: Image, source: EncoderSource) -> Image:
    from PIL import ImageOps
    from PIL.Image import Resampling

    size = (source.image_size, source.image_size)
    if source.fit == "crop":
        return ImageOps.fit(image, size, Resampling.BICUBIC)
    return image.resize(size, Resampling.BICUBIC)


def _leaks(
    chosen: list[Picture], kept: list[int], pixels: np.ndarray, looks: dict[str, Look]
) -> list[tuple[int, int]]:
    """Pairs of a test and a train picture that show the same."""
    from PIL import Image

    group: dict[int, Any] = {}
    for leader, members in enumerate(
        same_pictures(looks, lambda name: Image.fromarray(pixels[int(name)])).groups
    ):
        group |= {int(name): leader for name in members}
    first: dict[Any, int] = {}
    found: list[tuple[int, int]] = []
    keys = {
        number: group.get(number, hashlib.sha256(pixels[number].tobytes()).hexdigest())
        for number in kept
    }
    for number in kept:
        if chosen[number].split == "test":
            first.setdefault(keys[number], number)
    for number in kept:
        if chosen[number].split == "train" and keys[number] in first:
            found.append((first[keys[number]], number))
    return found


def _check(source: EncoderSource, pictures: list[Picture], classes: list[str]) -> None:
    for split in SPLITS:
        if sum(picture.split == split for picture in pictures) < 2:
            raise DataError(f"there are no pictures to {split} on", where="datasets")
    if source.chosen_task == "classification":
        if len(classes) < 2 or any(picture.label is None for picture in pictures):
            raise DataError("classification needs a label of each picture", where="datasets")
    elif not all(picture.captions for picture in pictures):
        raise DataError("retrieval needs a caption of each picture", where="datasets")
