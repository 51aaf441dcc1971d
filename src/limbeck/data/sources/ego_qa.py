"""Egocentric question answering sets as their authors publish them, from a local folder.

Layouts, each as its own repository states it (all read in November 2026):

- `egothink`: a folder for each question type with `annotations.json`, a list of `{"image_path":
  ["1.jpg"], "question", "answer"}`, and the pictures in `images/` beside it.
  https://github.com/AdaCheng/EgoThink/blob/main/EgoThink/EgoThink.py
- `egoschema`: `questions.json`, a list of `{"q_uid", "question", "option 0" ... "option 4"}`;
  `subset_answers.json`, `{q_uid: 0..4}`, has the answers that are public; `videos/<q_uid>.mp4`.
  https://github.com/egoschema/EgoSchema (README.md, download_multiproc.py)
- `egotempo`: `egotempo_openQA.json`, `{"annotations": [{"question_id", "clip_id",
  "question_type", "question", "answer"}]}`; clips of Ego4D, cut by the user.
  https://github.com/google-research-datasets/egotempo/blob/main/README.md
- `qaego4d`: `annotations.train.json`, `.val.json` and `.test.json`, lists of `{"video_id",
  "sample_id", "question", "answer", "moment_start_frame", "moment_end_frame"}`; `video_id` is a
  canonical clip of Ego4D. https://github.com/lbaermann/qaego4d/blob/main/README.md

The last two do not say where the clips lie: they are looked for as `<id>.mp4` (or another suffix
below, or a folder `<id>` of frames) in the folder `videos`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from limbeck.data.sources import Row, Source, media_stamp
from limbeck.errors import DataError
from limbeck.store import file_sha256, fingerprint

SUFFIXES = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif", ".webp", "")
"""What a video may be called after its id; the empty one is a folder of frames."""

OPTIONS = range(5)
CHOOSE = "Answer with the number of the right option."
"""Options are numbered as published; letters would not do, since `A` is an article to SQuAD."""


class EgoQA(Source):
    """EgoThink, EgoSchema, EgoTempo or QaEgo4D in their published layouts.

    All but `qaego4d` are for evaluation: their split is `test`. Questions of `egoschema` whose
    answers are not public are in the split `unlabelled`, for a teacher to answer. The metadata has
    the `question_type` where the set names one.
    """

    source: Literal["ego_qa"] = "ego_qa"
    layout: Literal["egothink", "egoschema", "egotempo", "qaego4d"] = Field(
        description="whose files these are"
    )
    path: str = Field(description="folder with the annotations")
    videos: str = Field(
        "videos", min_length=1, description="their folder, below `path` or anywhere"
    )
    frames: int = Field(
        8, ge=1, le=256, description="of each video, evenly spread from its first to its last"
    )
    prompt: str = Field(
        "{question}",
        min_length=1,
        pattern=r"\{question\}",
        description="{question} is replaced; the pictures stand in front",
    )

    def rows(self) -> Iterator[Row]:
        """Every question, in the order of the files."""
        if not Path(self.path).is_dir():
            raise DataError("folder not found", where=self.path)
        yield from {
            "egothink": self._egothink,
            "egoschema": self._egoschema,
            "egotempo": self._egotempo,
            "qaego4d": self._qaego4d,
        }[self.layout]()

    def image_roots(self) -> list[Path]:
        """The folder, and that of the videos."""
        return [Path(self.path).resolve(), self._video_folder().resolve()]

    def content_key(self) -> Any:
        """SHA-256 of the annotations, with names, sizes and times of pictures and videos."""
        base = Path(self.path)
        if not base.is_dir():
            raise DataError("folder not found", where=self.path)
        files = sorted(path for path in base.rglob("*.json") if path.is_file())
        stamps = {
            str(reference): media_stamp(Path(reference))
            for row in self.rows()
            for reference in (*row.images, *row.videos)
        }
        return {
            "annotations": [[p.relative_to(base).as_posix(), file_sha256(p)] for p in files],
            "media": fingerprint(sorted(stamps.items())),
        }

    def _egothink(self) -> Iterator[Row]:
        base = Path(self.path)
        files = sorted(base.rglob("annotations.json"))
        if not files:
            raise DataError("no annotations.json below the folder", where=self.path)
        for file in files:
            kind = "_".join(file.parent.relative_to(base).parts) or base.resolve().name
            for number, values in enumerate(_list(_json(file), file), start=1):
                row = self._row(f"{kind}/{number}", f"{file}:{number}", "test")
                with _filling(row):
                    names = _field(values, "image_path", list)
                    folder = (file.parent / "images").resolve()
                    row.images = [str(folder / _text(name, "image_path")) for name in names]
                    self._ask(row, _field(values, "question", str), len(names))
                    row.references = [_field(values, "answer", str)]
                    row.metadata["question_type"] = kind
                yield row

    def _egoschema(self) -> Iterator[Row]:
        file, known = (Path(self.path) / n for n in ("questions.json", "subset_answers.json"))
        answers = _json(known) if known.is_file() else {}
        if not isinstance(answers, dict):
            raise DataError("is not a mapping of q_uid to answer", where=str(known))
        for number, values in enumerate(_list(_json(file), file), start=1):
            row = self._row(str(number), f"{file}:{number}", "unlabelled")
            with _filling(row):
                row.id = _field(values, "q_uid", str)
                lines = [f"{i}: {_field(values, f'option {i}', str)}" for i in OPTIONS]
                if (answer := answers.get(row.id)) is not None:
                    if answer not in OPTIONS or isinstance(answer, bool):
                        raise DataError(f"answer {answer!r:.40} is not one of 0 to 4")
                    row.split, row.references = "test", [str(answer)]
                question = _field(values, "question", str)
                self._ask(row, "\n".join([question, *lines, CHOOSE]), self._video(row, row.id))
            yield row

    def _egotempo(self) -> Iterator[Row]:
        file = Path(self.path) / "egotempo_openQA.json"
        content = _json(file)
        listed = content.get("annotations") if isinstance(content, dict) else None
        for number, values in enumerate(_list(listed, file), start=1):
            row = self._row(str(number), f"{file}:{number}", "test")
            with _filling(row):
                row.id = _field(values, "question_id", str)
                row.references = [_field(values, "answer", str).strip()]
                row.metadata["question_type"] = _field(values, "question_type", str)
                row.metadata["clip"] = clip = _field(values, "clip_id", str)
                question = _field(values, "question", str)
                self._ask(row, question, self._video(row, clip.removesuffix(".mp4")))
            yield row

    def _qaego4d(self) -> Iterator[Row]:
        files = [
            Path(self.path) / f"annotations.{split}.json" for split in ("train", "val", "test")
        ]
        if not any(file.is_file() for file in files):
            raise DataError("no annotations.train.json, .val.json or .test.json", where=self.path)
        for file in (file for file in files if file.is_file()):
            split = file.name.split(".")[1]
            for number, values in enumerate(_list(_json(file), file), start=1):
                row = self._row(f"{split}-{number}", f"{file}:{number}", split)
                with _filling(row):
                    row.id = _field(values, "sample_id", str)
                    row.references = [_field(values, "answer", str)]
                    row.metadata["clip"] = clip = _field(values, "video_id", str)
                    for name in ("moment_start_frame", "moment_end_frame"):
                        row.metadata[name] = values.get(name)
                    self._ask(row, _field(values, "question", str), self._video(row, clip))
                yield row

    def _row(self, row_id: str, where: str, split: str) -> Row:
        return Row(row_id, where, split=split, frames=self.frames)

    def _ask(self, row: Row, question: str, pictures: int) -> None:
        kind = "video" if row.videos else "image"
        text = self.prompt.replace("{question}", question)
        parts = [*({"type": kind} for _ in range(pictures)), {"type": "text", "text": text}]
        row.messages = [{"role": "user", "content": parts}]

    def _video(self, row: Row, name: str) -> int:
        """Add the video of that name to the row; returns how many it then has."""
        if not name or name != Path(name).name:
            raise DataError(f"{name!r:.80} is not the name of a video")
        folder = self._video_folder().resolve()
        found = (folder / f"{name}{suffix}" for suffix in SUFFIXES)
        row.videos = [str(next((path for path in found if path.exists()), folder / f"{name}.mp4"))]
        return len(row.videos)

    def _video_folder(self) -> Path:
        return Path(self.path) / self.videos  # an absolute path stands for itself


@contextlib.contextmanager
def _filling(row: Row) -> Iterator[None]:
    """What is wrong with a row ends in its `error`, and the next one is read."""
    try:
        yield
    except DataError as error:
        row.error = error.what


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DataError(f"cannot read ({error.strerror or error})", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"is not JSON ({error})", where=str(path)) from error


def _list(value: Any, path: Path) -> list[Any]:
    if not isinstance(value, list):
        raise DataError("does not hold a list of questions", where=str(path))
    return value


def _field(values: Any, name: str, kind: type) -> Any:
    if not isinstance(values, dict):
        raise DataError("question is not a mapping")
    if name not in values:
        raise DataError(f"question has no {name!r}")
    if not isinstance(values[name], kind) or not values[name]:
        raise DataError(f"{name!r} is not {'text' if kind is str else 'a list'}, or is empty")
    return values[name]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value:
        raise DataError(f"{name!r} is not text, or is empty")
    return value
