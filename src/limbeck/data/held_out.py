"""Whether data of an arm's own holds samples that all arms are evaluated on.

Such a score would be memory. What the recipe's own training data shares with its evaluated samples
already is left to the warnings of the data stage: it helps all arms alike.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from limbeck.data.duplicates import Look, look_of, same_pictures
from limbeck.data.images import open_image
from limbeck.errors import DataError
from limbeck.records import Sample
from limbeck.store import write_json

HELD_OUT = "held_out.json"
SHOWN = 20


def check_held_out(
    output: Path,
    *,
    evaluated: Sequence[Sample],
    known: Sequence[Sample],
    trained: Sequence[Sample],
    folders: tuple[Path, Path],
    where: str,
) -> dict[str, Any]:
    """Compare what an arm is trained on with what is evaluated, and write what they share.

    Pictures are the same also when re-encoded or resized (see `limbeck.data.duplicates`); samples
    without pictures, when their messages are equal.

    Args:
        output: the stage's folder.
        evaluated: samples that all arms answer.
        known: samples that the recipe's own students are trained on.
        trained: samples that the arm is trained on.
        folders: of the data that is evaluated (and holds `known`), and of the arm's.
        where: the arm's place in the recipe, for the error.

    Raises:
        DataError: an evaluated sample is trained on that the recipe's own students do not see.
    """
    base, own = folders
    pictures = {
        file.sha256: folder / file.path
        for folder, samples in ((base, [*evaluated, *known]), (own, trained))
        for sample in samples
        for file in sample.images
    }
    looks: dict[str, Look] = {}
    for digest, path in pictures.items():
        if (look := look_of(open_image(path, where=str(path)))) is not None:
            looks[digest] = look
    first = same_pictures(looks, lambda d: open_image(pictures[d], where=d)).first_of()

    def shown(samples: Iterable[Sample]) -> set[str]:
        return {key for sample in samples for key in _keys(sample, first)}

    by_base, by_arm = shown(known), shown(trained)
    shared = [sample for sample in evaluated if by_arm & _keys(sample, first)]
    leaked = [sample for sample in shared if not by_base & _keys(sample, first)]
    if leaked:
        raise DataError(
            f"{len(leaked)} of {len(evaluated)} evaluated samples would be trained on "
            f"(first: {leaked[0].id}), since every arm is evaluated on the recipe's own data",
            where=where,
            mend="override only fields that leave its splits as they are (label.limit takes fewer "
            "samples), or give the recipe data from which all arms can hold the same out",
        )
    output.mkdir(parents=True, exist_ok=True)
    facts = {"evaluated": len(evaluated), "trained": len(trained), "shared": len(shared)}
    write_json(output / HELD_OUT, {**facts, "first": [sample.id for sample in shared[:SHOWN]]})
    return facts


def _keys(sample: Sample, first: dict[str, str]) -> set[str]:
    if sample.images:
        return {first.get(file.sha256, file.sha256) for file in sample.images}
    return {json.dumps(sample.messages, sort_keys=True)}
