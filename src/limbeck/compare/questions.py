"""From a picture and a question to a sample that is asked as the recipe's own samples are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from limbeck.data.images import encoded, open_image
from limbeck.errors import UsageError
from limbeck.records import ImageFile, Message, Sample
from limbeck.store import write_atomic

MAX_QUESTION_CHARACTERS = 8000


@dataclass(frozen=True)
class Upload:
    """A picture of the user's, decoded and stored again as PNG; metadata is not kept."""

    file: ImageFile


def store_upload(data: bytes, folder: Path) -> Upload:
    """Decode a picture and keep it in `folder`.

    Raises:
        DataError: it is no picture that is opened, or too large.
    """
    image = open_image(data, where="the upload")
    content = encoded(image, "PNG")
    digest = hashlib.sha256(content).hexdigest()
    path = folder.resolve() / f"{digest}.png"
    write_atomic(path, content)
    return Upload(ImageFile(str(path), digest, image.width, image.height))


def question_of(sample: Sample) -> str:
    """The text of the last user turn."""
    return "\n".join(part["text"] for part in _last(sample) if part["type"] == "text")


def ask_again(sample: Sample, question: str) -> Sample:
    """A sample of the data with another question; with its own it is the sample as it was scored.

    Raises:
        UsageError: the question is empty or too long.
    """
    if question == question_of(sample):
        return sample
    return replace(
        sample,
        id=f"{sample.id} (asked otherwise)",
        messages=(*sample.messages[:-1], _turn(_last(sample), _checked(question))),
        references=(),
    )


def ask_about(upload: Upload, question: str, like: Sequence[Sample]) -> Sample:
    """A new picture, asked about in the manner of the data: its system turn, its order of parts.

    Raises:
        UsageError: the question is empty or too long, or the data's samples have no pictures.
    """
    manner = next((sample for sample in like if sample.images), None)
    if manner is None:
        raise UsageError("the samples of this recipe have no pictures to imitate", where="data")
    parts = _last(manner)
    first = next(part["type"] for part in parts if part["type"] in ("text", "image"))
    picture, text = {"type": "image"}, {"type": "text", "text": _checked(question)}
    content = [picture, text] if first == "image" else [text, picture]
    system = [turn for turn in manner.messages[:-1] if turn["role"] == "system"]
    return Sample(
        id=f"upload {upload.file.sha256[:12]}",
        split="upload",
        messages=(*system, {"role": "user", "content": content}),
        images=(upload.file,),
    )


def _last(sample: Sample) -> Sequence[dict[str, str]]:
    return sample.messages[-1]["content"]


def _turn(parts: Sequence[dict[str, str]], question: str) -> Message:
    """The parts with one text in the place of the first."""
    place = next((n for n, part in enumerate(parts) if part["type"] == "text"), len(parts))
    before, after = parts[:place], [p for p in parts[place:] if p["type"] != "text"]
    return {"role": "user", "content": [*before, {"type": "text", "text": question}, *after]}


def _checked(question: str) -> str:
    if not question.strip():
        raise UsageError("the question is empty", where="question")
    if len(question) > MAX_QUESTION_CHARACTERS:
        raise UsageError(
            f"the question has {len(question):,} characters",
            where="question",
            mend=f"at most {MAX_QUESTION_CHARACTERS:,} are taken",
        )
    return question
