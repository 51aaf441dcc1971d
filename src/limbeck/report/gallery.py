"""The gallery's content: samples with thumbnails, prompts, references, answers and scores.

Which samples are shown does not depend on any score: they are evenly spaced over the evaluation.
Beside them are the few that the report names as those where the student fails most.
Long texts are shortened here, with a note, so that one hostile sample cannot spoil the page.
"""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.data.images import open_image
from limbeck.data.samples import read_samples
from limbeck.errors import DataError
from limbeck.records import Sample
from limbeck.report.results import ReportInputs, require_equal_samples
from limbeck.report.stage_files import clean, read_json, read_jsonl
from limbeck.report.table import shortened

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_SIDE_PIXELS = 320
IMAGE_BUDGET_BYTES = 16 * 2**20
"""Of all pictures of a page together; above it they are made smaller, so that it opens fast."""
SIZES = ((MAX_SIDE_PIXELS, 82), (256, 76), (192, 70), (128, 64))
"""Longest side in pixels and JPEG quality, from what is wanted to what is still recognised."""
FEW_COLOURS = 4096
"""A picture with more is taken for a photo."""
MAX_CHARACTERS = 1500
MAX_REFERENCES = 10
MAX_IMAGES = 6
MAX_METADATA = 8
MAX_GROUPS = 24
"""A metadata field with more different values than this is no category to filter by."""


def gallery_of(inputs: ReportInputs, results: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's script needs, as one JSON-able value.

    Raises:
        DataError: predictions, scores and samples do not belong together, or an image is broken.
    """
    scores = results["evaluation"]
    models = [{k: model[k] for k in ("id", "arm", "seed")} for model in scores["models"]]
    answers = {
        model["id"]: list(read_jsonl(inputs.evaluation / f"predictions-{model['id']}.jsonl"))
        for model in models
    }
    require_equal_samples(answers)
    per_sample = read_json(inputs.evaluation / "sample_scores.json")
    order = [row["id"] for row in next(iter(answers.values()), [])]
    limit = (inputs.recipe.get("report") or {}).get("gallery", 200)
    split = (inputs.recipe.get("evaluate") or {}).get("split")
    samples = {sample.id: sample for sample in read_samples(inputs.data, split=split)}
    files: dict[str, Path] = {}
    shown = []
    spread = evenly_spaced(len(order), limit)
    worst = {row["id"] for row in (results["failures"] or {}).get("samples", ())} if limit else ()
    added = {i for i, name in enumerate(order) if name in worst}.difference(spread)
    for index in sorted(added.union(spread)):
        sample = samples.get(order[index])
        if sample is None:
            raise DataError(
                f"evaluated sample {order[index]!r} is not in the data",
                where=str(inputs.data),
                mend="run the evaluation again",
            )
        shown.append(_entry(sample, index, models, answers, per_sample, scores["metrics"]))
        for image in sample.images[:MAX_IMAGES]:
            files[image.sha256] = inputs.data / image.path
    budget = IMAGE_BUDGET_BYTES // max(len(files), 1)
    images = {key: thumbnail(path, budget) for key, path in files.items()}
    return clean(
        {
            "total": len(order),
            "added": len(added),
            "metrics": [
                {"kind": m["kind"], "name": m["name"], "higher": m["higher_is_better"]}
                for m in scores["metrics"]
            ],
            "headline": results["headline"],
            "models": models,
            "categories": categories([entry["metadata"] for entry in shown]),
            "samples": shown,
            "images": images,
        }
    )


def evenly_spaced(total: int, limit: int) -> list[int]:
    """At most `limit` indices, evenly spaced over `total`."""
    if total <= limit:
        return list(range(total))
    return [i * total // limit for i in range(limit)]


def categories(metadata: Sequence[Mapping[str, str]]) -> dict[str, list[str]]:
    """Metadata fields with a few different values: those that one can filter by."""
    found: dict[str, Counter[str]] = {}
    for fields in metadata:
        for key, value in fields.items():
            found.setdefault(key, Counter())[value] += 1
    return {key: sorted(values) for key, values in found.items() if 2 <= len(values) <= MAX_GROUPS}


def thumbnail(path: Path, budget_bytes: int = IMAGE_BUDGET_BYTES) -> dict[str, Any]:
    """A small copy of an image as a data URI, with the size of the original.

    Args:
        path: of the image.
        budget_bytes: what the copy may take; where none of SIZES fits, the smallest is taken.

    Raises:
        DataError: the image cannot be opened.
    """
    image = open_image(path, where=str(path))
    width, height = image.size
    uri = ""
    for side, quality in SIZES:
        if max(image.size) > side:
            image.thumbnail((side, side))
        uri = _data_uri(image, quality)
        if len(uri) <= budget_bytes:
            break
    return {"uri": uri, "width": width, "height": height}


def prompt_of(sample: Sample) -> str:
    """The messages as plain text, one line per message, images as [image]."""
    lines = []
    for message in sample.messages:
        parts = [p["text"] if p["type"] == "text" else "[image]" for p in message["content"]]
        role = "" if message["role"] == "user" else f"{message['role']}: "
        lines.append(role + " ".join(parts))
    return "\n".join(lines)


def _entry(
    sample: Sample,
    index: int,
    models: Sequence[Mapping[str, Any]],
    answers: Mapping[str, Sequence[Mapping[str, Any]]],
    per_sample: Mapping[str, Mapping[str, Sequence[float | None]]],
    metrics: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    references = [shortened(text, MAX_CHARACTERS) for text in sample.references[:MAX_REFERENCES]]
    return {
        "id": shortened(sample.id, 120),
        "index": index,
        "images": [image.sha256 for image in sample.images[:MAX_IMAGES]],
        "hidden_images": max(0, len(sample.images) - MAX_IMAGES),
        "prompt": shortened(prompt_of(sample), MAX_CHARACTERS),
        "references": references,
        "hidden_references": max(0, len(sample.references) - MAX_REFERENCES),
        "metadata": metadata_of(sample.metadata),
        "answers": [_answer(answers[model["id"]][index]) for model in models],
        "scores": [
            [_score(per_sample, model["id"], metric["kind"], index) for metric in metrics]
            for model in models
        ],
    }


def _answer(row: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "text": shortened(str(row["prediction"]), MAX_CHARACTERS),
        "tokens": row.get("new_tokens"),
        "finished": row.get("finished", True),
    }


def _score(
    per_sample: Mapping[str, Mapping[str, Sequence[float | None]]],
    model: str,
    kind: str,
    index: int,
) -> float | None:
    values = (per_sample.get(model) or {}).get(kind)
    if values is None:
        return None
    if index >= len(values):
        raise DataError(
            f"{model} has {len(values)} scores in {kind}, fewer than it has predictions",
            where="sample_scores.json",
            mend="run the evaluation again",
        )
    value = values[index]
    return None if value is None else round(value, 4)


def metadata_of(fields: Mapping[str, Any]) -> dict[str, str]:
    """The first few plain fields of a sample's metadata, as text."""
    plain = {
        shortened(str(key), 60): shortened(str(value), 120)
        for key, value in fields.items()
        if isinstance(value, str | int | float | bool) and str(value)
    }
    return dict(list(plain.items())[:MAX_METADATA])


def _data_uri(image: Image, quality: int) -> str:
    """PNG where it is not much bigger than JPEG (flat screens, pixel art), else JPEG."""
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=quality, optimize=True)
    kind, content = "jpeg", jpeg.getvalue()
    if image.getcolors(FEW_COLOURS) is not None:  # of photos a PNG is bigger, and takes long
        png = io.BytesIO()
        image.save(png, "PNG")
        if len(png.getvalue()) <= 1.5 * len(content):
            kind, content = "png", png.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
