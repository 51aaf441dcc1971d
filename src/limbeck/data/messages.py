"""From any chat format to one: a prompt of typed parts, its images in order, the answers.

Accepted, and mixed as found: `<image>` placeholders in plain strings; typed parts with the picture
inside (`{"type": "image", "image": path}`, `{"type": "image_url", "image_url": {"url": ...}}`) or
taken from the row's list of images (`{"type": "image"}`); ShareGPT's `from`/`value` turns. Videos
are named in the same ways (`<video>`, `{"type": "video"}`), and each becomes pictures, its frames.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from limbeck.errors import DataError
from limbeck.records import Message, Part

PLACEHOLDER = "<image>"
VIDEO_PLACEHOLDER = "<video>"
ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
}


def normalise(
    messages: Any,
    images: Sequence[Any],
    references: Any,
    *,
    where: str,
    videos: Sequence[Any] = (),
    frames_of: Callable[[Any], Sequence[Any]] | None = None,
) -> tuple[tuple[Message, ...], list[Any], tuple[str, ...]]:
    """The prompt, its image references in the order of their parts, and the gold answers.

    A final assistant turn is taken off the prompt and becomes the first answer, before the row's
    own. Placeholders and bare image parts take the row's images in order; one image without any
    placeholder goes to the front of the first user turn. A line break next to a placeholder goes
    with it. Blank answers are dropped. Where a row may have videos, `frames_of` makes pictures of
    one; without videos `<video>` is only text.

    Raises:
        DataError: unknown role or part, text that is no text, a count of placeholders that is not
            that of the images, a prompt that is empty or does not end with a user turn.
    """
    turns = list(_turns(messages, where, bool(videos)))
    answers = _texts(references, where)
    if turns and turns[-1]["role"] == "assistant":
        answer = "".join(part["text"] for part in turns.pop()["content"])
        if not answer.strip():
            raise DataError("the final assistant turn is empty", where=where)
        answers = [answer, *(text for text in answers if text != answer)]
    if not turns or turns[-1]["role"] != "user":
        raise DataError("the prompt does not end with a user turn", where=where)
    if any(not turn["content"] for turn in turns):
        raise DataError("a turn of the prompt is empty", where=where)
    if any(turn["role"] == "system" for turn in turns[1:]):
        raise DataError("a system turn stands after the first", where=where)
    found = _fill(turns, {"image": list(images), "video": list(videos)}, where)
    return tuple(turns), _in_frames(turns, found, frames_of, where), tuple(answers)


def _turns(messages: Any, where: str, videos: bool) -> Iterator[Message]:
    if not isinstance(messages, (list, tuple)) or not messages:
        raise DataError("messages is not a list with at least one turn", where=where)
    for turn in messages:
        if not isinstance(turn, dict):
            raise DataError("a turn is not a mapping with role and content", where=where)
        name = turn.get("role") if turn.get("role") is not None else turn.get("from")
        role = ROLES.get(name) if isinstance(name, str) else None
        if role is None:
            known = ", ".join(ROLES)
            raise DataError(
                f"role {_shown(name)} is not known", where=where, mend=f"roles: {known}"
            )
        content = turn.get("content") if turn.get("content") is not None else turn.get("value")
        yield {"role": role, "content": list(_parts(content, role, where, videos))}


def _parts(content: Any, role: str, where: str, videos: bool) -> Iterator[Part]:
    """Parts of one turn; an image part carries its own reference, if it has one, until `_fill`."""
    if isinstance(content, str):
        places = f"({PLACEHOLDER}|{VIDEO_PLACEHOLDER})" if videos else f"({PLACEHOLDER})"
        pieces = [content] if role == "assistant" else re.split(places, content)
        for index, piece in enumerate(pieces):
            if index % 2:
                yield {"type": piece[1:-1]}
                continue
            if index:
                piece = piece.removeprefix("\r").removeprefix("\n")
            if index < len(pieces) - 1:
                piece = piece.removesuffix("\n").removesuffix("\r")
            if piece.strip():
                yield {"type": "text", "text": _text(piece, where)}
        return
    if not isinstance(content, (list, tuple)):
        raise DataError("content is neither text nor a list of parts", where=where)
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else "text"
        if kind == "text":
            text = _text(part if isinstance(part, str) else _own(part, "text"), where)
            if text.strip():
                yield {"type": "text", "text": text}
        elif kind in ("image", "image_url", "video"):
            if role == "assistant":
                what = "a video" if kind == "video" else "an image"
                raise DataError(f"{what} stands in an assistant turn", where=where)
            yield {"type": kind[:5], "reference": _reference(part)}
        else:
            raise DataError(f"part of type {_shown(kind)} is not supported", where=where)


def _own(part: Any, key: str) -> Any:
    return part.get(key) if isinstance(part, dict) else None


def _reference(part: dict[str, Any]) -> Any:
    """The picture inside an image part, or None for the next of the row's images."""
    for key in ("image", "image_url", "video", "url", "path", "base64"):
        value = part.get(key)
        if isinstance(value, dict) and "url" in value:
            value = value["url"]
        if value is not None:
            return f"data:;base64,{value}" if key == "base64" else value
    return None


def _fill(turns: list[Message], apart: dict[str, list[Any]], where: str) -> list[Any]:
    """Strip references off the parts and return them in order, the row's own between them.

    `apart` has the row's images and its videos.
    """
    parts = [part for turn in turns for part in turn["content"] if part["type"] in apart]
    own = [(kind, reference) for kind, given in apart.items() for reference in given]
    if not parts and len(own) == 1:
        first = next(turn for turn in turns if turn["role"] == "user")
        first["content"].insert(0, {"type": own[0][0]})
        return [own[0][1]]
    inside = [part.pop("reference", None) for part in parts]
    for kind, given in apart.items():
        places = sum(
            reference is None and part["type"] == kind
            for part, reference in zip(parts, inside, strict=True)
        )
        if places != len(given):
            raise DataError(
                f"the messages have {places} places for {kind}s but the row has {len(given)} "
                f"{kind}s",
                where=where,
            )
    rest = {kind: iter(given) for kind, given in apart.items()}
    return [
        reference if reference is not None else next(rest[part["type"]])
        for part, reference in zip(parts, inside, strict=True)
    ]


def _in_frames(
    turns: list[Message],
    found: list[Any],
    frames_of: Callable[[Any], Sequence[Any]] | None,
    where: str,
) -> list[Any]:
    """Put image parts in place of each video part, one a frame; returns all pictures in order."""
    pictures: list[Any] = []
    references = iter(found)
    for turn in turns:
        parts: list[Part] = []
        for part in turn["content"]:
            if part["type"] == "text":
                parts.append(part)
                continue
            given = [next(references)]
            if part["type"] == "video":
                if frames_of is None:
                    raise DataError("a video cannot stand here", where=where)
                given = list(frames_of(given[0]))
            parts += [{"type": "image"} for _ in given]
            pictures += given
        turn["content"] = parts
    return pictures


def _texts(references: Any, where: str) -> list[str]:
    if references is None:
        return []
    if isinstance(references, str):
        references = [references]
    if not isinstance(references, (list, tuple)):
        raise DataError("references is not a list of texts", where=where)
    return [text for text in (_text(item, where) for item in references) if text.strip()]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"a text is {type(value).__name__}, not a string", where=where)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise DataError("a text holds half a character (lone surrogate)", where=where) from error
    return value


def _shown(value: Any) -> str:
    """A value for an error message; anything but text by its type, however deep it is."""
    return f"{value!r:.80}" if isinstance(value, str) else f"of type {type(value).__name__}"
