"""Samples with another number of pictures than one."""

from __future__ import annotations

from dataclasses import replace

from limbeck.records import Sample


def with_several_pictures_and_none(samples: list[Sample]) -> list[Sample]:
    """A sample with its own and another's picture, one without any, and one as it was."""
    first, second, third = samples[:3]
    (message,) = first.messages
    content = message["content"]
    picture, text = content[0], content[-1]
    two = replace(
        first,
        id="two",
        messages=({**message, "content": [picture, text, picture]},),
        images=(*first.images, *second.images),
    )
    none = replace(second, id="none", messages=({**message, "content": [text]},), images=())
    return [two, none, third]
