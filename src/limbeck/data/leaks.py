"""What pictures that occur twice mean for a data set: scores that leak, and repeated samples."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from limbeck.data.duplicates import SamePictures
from limbeck.records import Sample

SHOWN = 20
"""Leaks that are listed for each pair of splits; all are counted."""

TRAIN = 3
"""The rank of the training split; what comes before it is held out."""


class Pictures:
    """The pictures of a data set's samples by what they show, not by how they are stored.

    Args:
        samples: the data set.
        same: groups of content hashes that show one picture.
    """

    def __init__(self, samples: Sequence[Sample], same: SamePictures) -> None:
        self.samples = samples
        self._first = same.first_of()
        self._ranks = _ranks(samples)
        self.splits = sorted(self._ranks, key=lambda name: self._ranks[name])
        self._owners: dict[str, dict[str, Sample]] = defaultdict(dict)
        for sample in samples:
            for picture in self.of(sample):
                self._owners[picture].setdefault(sample.split, sample)

    def of(self, sample: Sample) -> tuple[str, ...]:
        """One name for each of a sample's pictures; copies have the same."""
        return tuple(self._first.get(file.sha256, file.sha256) for file in sample.images)

    def owner(self, picture: str, split: str) -> Sample | None:
        """The first sample of a split that shows a picture."""
        return self._owners[picture].get(split)

    def is_held_out(self, split: str) -> bool:
        """Whether scores on a split would mean anything: it is not for training alone."""
        return self._ranks[split] < TRAIN

    def earlier_owner(self, sample: Sample) -> Sample | None:
        """A sample of a split before this one's, by the order of `splits`, that shows the same."""
        before = self.splits[: self.splits.index(sample.split)]
        owners = (self.owner(picture, split) for picture in self.of(sample) for split in before)
        return next((owner for owner in owners if owner is not None), None)


def leaks(pictures: Pictures) -> list[dict[str, Any]]:
    """How many samples of each split show a picture that a later split shows too."""
    found: list[dict[str, Any]] = []
    for position, split in enumerate(pictures.splits):
        own = [sample for sample in pictures.samples if sample.split == split]
        for other in pictures.splits[position + 1 :]:
            pairs = [
                [sample.id, owner.id]
                for sample in own
                if (owner := _shown_in(pictures, sample, other)) is not None
            ]
            if pairs:
                found.append(
                    {
                        "split": split,
                        "also_in": other,
                        "held_out": pictures.is_held_out(split),
                        "samples": len(pairs),
                        "of": len(own),
                        "share": round(len(pairs) / len(own), 4),
                        "first": pairs[:SHOWN],
                    }
                )
    return found


def leak_warnings(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line for each pair of splits of which the first is held out."""
    return [
        f"{leak['samples']} of {leak['of']} {leak['split']} samples ({leak['share']:.1%}) show a "
        f"picture that {leak['also_in']} has too (the same file, re-encoded or resized), so scores "
        f"on {leak['split']} leak (data.duplicates: drop takes it out of {leak['also_in']})"
        for leak in found
        if leak["held_out"]
    ]


def superfluous(pictures: Pictures) -> list[tuple[Sample, str]]:
    """The samples that `duplicates: drop` leaves out, with the reason.

    Those that show a picture of an earlier split; and within a split repeats: the same prompt on a
    copy of the same pictures in other files. Several prompts or answers on one file are no repeats.
    """
    found: list[tuple[Sample, str]] = []
    seen: dict[tuple[str, tuple[str, ...], str], Sample] = {}
    for sample in pictures.samples:
        if not sample.images:
            continue
        if (owner := pictures.earlier_owner(sample)) is not None:
            found.append((sample, f"shows a picture of {owner.split} sample {owner.id!r}"))
            continue
        key = (sample.split, pictures.of(sample), json.dumps(sample.messages, sort_keys=True))
        first = seen.setdefault(key, sample)
        if first.images != sample.images:
            found.append((sample, f"repeats {first.split} sample {first.id!r}"))
    return found


def describe_duplicates(pictures: Pictures, same: SamePictures) -> dict[str, Any]:
    """Counts and examples for `statistics.json`."""
    files = {file.sha256: file.path for sample in pictures.samples for file in sample.images}
    groups = [[files[name] for name in group if name in files] for group in same.groups]
    groups = [group for group in groups if len(group) > 1]
    return {
        "groups": len(groups),
        "copies": sum(len(group) - 1 for group in groups),
        "first": groups[:SHOWN],
        "pairs_not_compared": same.not_compared,
    }


def _shown_in(pictures: Pictures, sample: Sample, split: str) -> Sample | None:
    owners = (pictures.owner(picture, split) for picture in pictures.of(sample))
    return next((owner for owner in owners if owner is not None), None)


def _ranks(samples: Sequence[Sample]) -> dict[str, int]:
    """Whose pictures are kept first: test, validation, others, train, those without any answer."""
    known = {"test": 0, "validation": 1, "train": TRAIN}
    answered = {sample.split for sample in samples if sample.references}
    splits = dict.fromkeys(sample.split for sample in samples)
    return {name: known.get(name, 2 if name in answered else 4) for name in splits}
