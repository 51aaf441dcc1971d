"""Several teachers as one: each sample goes to one of them, or all answer and the best is kept."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, SerializeAsAny, model_validator

from limbeck.errors import DataError, UsageError
from limbeck.recipe.component import Component, Section, component_field
from limbeck.records import Sample
from limbeck.teachers import Capability, OpenTeacher, Teacher
from limbeck.teachers.several import every_teacher, routed_teachers

MemberField = Annotated[
    SerializeAsAny[Component], component_field("limbeck.teachers", "backend", without="mixture")
]
Number = Annotated[int, Field(ge=0)]


class Route(Section):
    """Which teacher a sample goes to: by what its metadata says, or by shares of all samples."""

    by: str | None = Field(default=None, description="key of the samples' metadata")
    to: dict[str, Number] = Field(
        default={}, description="of `by`: value -> number in `teachers`, counted from 0"
    )
    otherwise: Number | None = Field(
        default=None, description="of `by`: where all others go; null: another value is an error"
    )
    shares: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        default=None, description="one for each teacher; a hash of the sample's id decides"
    )

    @model_validator(mode="after")
    def _one_way(self) -> Route:
        if (self.by is None) == (self.shares is None):
            raise ValueError("needs either by or shares")
        if self.by is not None and not self.to:
            raise ValueError("by needs a value in `to`")
        if self.by is None and (self.to or self.otherwise is not None):
            raise ValueError("to and otherwise belong to by")
        return self

    def number_of(self, sample: Sample) -> int:
        """The number of the teacher for a sample.

        Raises:
            DataError: its metadata has a value that goes nowhere.
        """
        if self.shares is not None:
            digest = hashlib.sha256(f"route {sample.id}".encode()).digest()
            place = int.from_bytes(digest[:8], "big") / 2**64 * sum(self.shares)
            return min(bisect_right(list(accumulate(self.shares)), place), len(self.shares) - 1)
        assert self.by is not None
        value = sample.metadata.get(self.by)
        number = self.to.get(str(value), self.otherwise)
        if number is None:
            raise DataError(
                f"no teacher for {self.by} {str(value)[:80]!r}",
                where=sample.id,
                mend="add it to teacher.route.to, or set teacher.route.otherwise",
            )
        return number


class Mixture(Teacher):
    """Several teachers; labels say which of them answered.

    With `route: all` every teacher answers, and the answer is kept that all of them together find
    the likeliest (mean log-probability a token) where all can score; else the one that has most
    words in common with the others. Distributions need teachers of one tokenizer.
    """

    backend: Literal["mixture"] = "mixture"
    teachers: tuple[MemberField, ...] = Field(min_length=2, description="any but mixtures")
    route: Literal["all"] | Route = Field(description="`all`, or who answers what")

    @model_validator(mode="after")
    def _routes_lead_somewhere(self) -> Mixture:
        if self.route == "all":
            return self
        route, count = cast(Route, self.route), len(self.teachers)
        if route.shares is not None and len(route.shares) != count:
            raise UsageError(
                f"{len(route.shares)} shares for {count} teachers", where="route.shares"
            )
        for value, number in (*route.to.items(), ("otherwise", route.otherwise)):
            if number is not None and number >= count:
                raise UsageError(
                    f"there is no teacher {number}, they are counted from 0 to {count - 1}",
                    where="route.otherwise" if value == "otherwise" else f"route.to.{value}",
                )
        return self

    def capabilities(self) -> frozenset[Capability]:
        """What all of them can, but for inner and hidden states, which have to be one model's.

        With `route: all` distributions come with the answer that was chosen; another answer is
        nobody's.
        """
        shared = frozenset.intersection(*(member.capabilities() for member in self.members()))
        shared -= {"hidden_states", "inner_states"}
        if self.route != "all" or not shared & {"score", "log_probabilities"}:
            return shared
        return shared - {"score"} | {"log_probabilities"}

    def members(self) -> tuple[Teacher, ...]:
        """The teachers, in their order."""
        return cast("tuple[Teacher, ...]", self.teachers)

    def with_members(self, members: Sequence[Teacher]) -> Mixture:
        """The same route over others."""
        return self.model_copy(update={"teachers": tuple(members)})

    def routing(self) -> dict[str, Any]:
        """The route."""
        return {"route": self.model_dump(mode="json", include={"route"})["route"]}

    def open(
        self, data: Path, *, device: str, responses: Path | None = None, job: str = ""
    ) -> OpenTeacher:
        """Open all of them; a cost cap counts what each spends on this job."""
        sessions: list[OpenTeacher] = []
        try:
            for number, member in enumerate(self.members()):
                own = f"{job}-{number}" if job else ""
                sessions.append(member.open(data, device=device, responses=responses, job=own))
        except BaseException:
            for session in sessions:
                session.close()
            raise
        names = [f"{number} {member.word}" for number, member in enumerate(self.members())]
        if self.route == "all":
            needed = {"score", "whole_distributions"}
            can_score = all(needed <= member.capabilities() for member in self.members())
            return every_teacher(names, sessions, can_score=can_score)
        return routed_teachers(names, sessions, cast(Route, self.route).number_of)

    def identity(self) -> dict[str, Any]:
        """The route, the teachers' own identities, and what all of them are told."""
        members = [{**m.identity(), **m.prompting_fields()} for m in self.members()]
        return {**self.routing(), "members": members, **self.prompting_fields()}
