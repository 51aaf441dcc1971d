"""Several sources as one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, SerializeAsAny, model_validator

from limbeck.data.sources import Row, Source
from limbeck.errors import UsageError
from limbeck.recipe.component import Component, component_field

PartField = Annotated[
    SerializeAsAny[Component], component_field("limbeck.data.sources", "source", without="mixed")
]

OF_THE_WHOLE = ("max_broken_share", "duplicates")
"""Options that only the mixture has; `limit` and `licence` both may have."""

OF_THE_PARTS = (
    *("prompt", "split", "splits", "split_names", "validation_share", "test_share", "hash_by"),
    "max_aspect_ratio",
)
"""Options that each part has for itself."""


class Mixed(Source):
    """The samples of several sources, in the order of `parts`.

    Each part is a source with its own options: `split: unlabelled` in a part puts all of its rows
    there. Of the options that all sources have, the mixture's own are `limit` (of a split over all
    parts), `max_broken_share`, `duplicates` and `licence` (default: those of the parts); the others
    belong to the parts. An id that an earlier part has is led by the part's number (`part2:`).
    """

    source: Literal["mixed"] = "mixed"
    parts: tuple[PartField, ...] = Field(
        min_length=1,
        description="sources",
        examples=[
            [
                {"source": "jsonl", "path": "CHANGE-ME"},
                {"source": "folder", "path": "CHANGE-ME", "split": "unlabelled"},
            ]
        ],
    )

    @model_validator(mode="after")
    def _each_option_in_its_place(self) -> Mixed:
        for name in OF_THE_PARTS:
            if getattr(self, name) != Mixed.model_fields[name].get_default():
                raise UsageError("is an option of the parts", where=name, mend="set it in a part")
        for number, part in enumerate(self.parts):
            for name in OF_THE_WHOLE:
                if getattr(part, name) != type(part).model_fields[name].get_default():
                    raise UsageError(
                        "is an option of the whole mixture",
                        where=f"parts.{number}.{name}",
                        mend=f"set data.{name}",
                    )
        return self

    def rows(self) -> Iterator[Row]:
        """The rows of every part, each with the part as its `source`."""
        taken: set[str] = set()
        for number, part in enumerate(self._sources, start=1):
            own: set[str] = set()
            for row in part.rows():
                row_id = row.id
                while row_id in taken:
                    row_id = f"part{number}:{row_id}"
                own.add(row_id)
                metadata = dict(row.metadata)
                if part.licence is not None:
                    metadata.setdefault("licence", part.licence)
                yield replace(row, id=row_id, metadata=metadata, source=part)
            taken |= own

    def image_roots(self) -> list[Path]:
        """None of its own: a row's pictures are in its part's folders."""
        return []

    def stated_licence(self) -> str | None:
        """Its own, or those of the parts and which of them state none."""
        if self.licence is not None:
            return self.licence
        stated = dict.fromkeys(part.licence for part in self._sources if part.licence is not None)
        silent = [str(n) for n, part in enumerate(self._sources, start=1) if part.licence is None]
        if not stated:
            return None
        unknown = [f"none stated for part {', '.join(silent)}"] if silent else []
        return "; ".join([*stated, *unknown])

    def content_key(self) -> Any:
        """Those of the parts."""
        return {"parts": [part.content_key() for part in self._sources]}

    @property
    def _sources(self) -> tuple[Source, ...]:
        return cast("tuple[Source, ...]", self.parts)
