"""Open teachers that answer as one; `limbeck.teachers.mixture` is what a recipe says of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Any, cast

from limbeck.errors import TeacherError, UsageError
from limbeck.records import Sample
from limbeck.teachers import Answer, Answered, Decoding, OpenTeacher, Request, ScoredAnswer

APART = 1_000_000
"""Added to the expected length for each teacher, so that a batch goes to one of them."""


def routed_teachers(
    names: Sequence[str], sessions: Sequence[OpenTeacher], number_of: Callable[[Sample], int]
) -> OpenTeacher:
    """Each sample is one teacher's; `number_of` says whose."""
    return _Routed(names, sessions, number_of)


def every_teacher(
    names: Sequence[str], sessions: Sequence[OpenTeacher], *, can_score: bool
) -> OpenTeacher:
    """All answer every sample, and one answer is chosen; by scores where all can give them."""
    return _Every(names, sessions, can_score)


class _Several(OpenTeacher):
    """What both ways have in common."""

    def __init__(self, names: Sequence[str], sessions: Sequence[OpenTeacher]) -> None:
        self.names, self.sessions = list(names), list(sessions)
        self._differ = _difference(sessions)

    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[Answer]:
        times: Counter[str] = Counter()
        asked: list[Request] = []
        for sample in samples:
            asked.append(Request(sample, times[sample.id]))
            times[sample.id] += 1
        found: dict[tuple[str, int], Answer] = {}
        for requests, answers in self.stream([asked], decoding):
            pairs = zip(requests, answers, strict=True)
            found |= {(r.sample.id, r.number): answer for r, answer in pairs}
        return [found[r.sample.id, r.number] for r in asked]

    @property
    def batched(self) -> bool:  # type: ignore[override]
        return any(session.batched for session in self.sessions)

    def save_tokenizer(self, folder: Path) -> None:
        self.sessions[0].save_tokenizer(folder)

    @property
    def vocabulary_rows(self) -> int | None:
        return self.sessions[0].vocabulary_rows if self._differ is None else None

    @property
    def answer_frame(self) -> tuple[str, list[int]]:
        return self.sessions[0].answer_frame

    def describe_memory(self) -> str:
        return "; ".join(session.describe_memory() for session in self.sessions)

    def usage(self) -> dict[str, float]:
        total: Counter[str] = Counter()
        for session in self.sessions:
            total.update(session.usage())
        return dict(total)

    def close(self) -> None:
        for session in self.sessions:
            session.close()

    def require_one_tokenizer(self) -> None:
        """See that distributions of all teachers are over the same tokens.

        Raises:
            TeacherError: they are not, with the first difference.
        """
        if self._differ is not None:
            raise TeacherError(
                f"the teachers' distributions cannot be mixed: {self._differ}",
                where="teacher.teachers",
                mend="set label.signal to none, or take teachers of one tokenizer",
            )


class _Routed(_Several):
    def __init__(
        self,
        names: Sequence[str],
        sessions: Sequence[OpenTeacher],
        number_of: Callable[[Sample], int],
    ) -> None:
        super().__init__(names, sessions)
        self._number_of = number_of

    def stream(
        self, batches: Iterable[Sequence[Request]], decoding: Decoding, *, workers: int = 0
    ) -> Iterator[Answered]:
        if decoding.top_log_probabilities:
            self.require_one_tokenizer()
        planned = [list(batch) for batch in batches]
        for number, session in enumerate(self.sessions):
            own = [[r for r in batch if self._number_of(r.sample) == number] for batch in planned]
            own = [batch for batch in own if batch]
            for requests, answers in session.stream(own, decoding, workers=workers) if own else ():
                yield requests, [replace(a, teacher=self.names[number]) for a in answers]

    def score(self, samples: Sequence[Sample], answers: Sequence[str]) -> list[ScoredAnswer]:
        self.require_one_tokenizer()
        found: dict[int, ScoredAnswer] = {}
        numbers = [self._number_of(sample) for sample in samples]
        for number in sorted(set(numbers)):
            own = [place for place, other in enumerate(numbers) if other == number]
            asked = [samples[place] for place in own], [answers[place] for place in own]
            found |= dict(zip(own, self.sessions[number].score(*asked), strict=True))
        return [found[place] for place in range(len(samples))]

    def expected_length(self, sample: Sample) -> int:
        number = self._number_of(sample)
        return number * APART + self.sessions[number].expected_length(sample)

    def share_prefixes(self, samples: Sequence[Sample]) -> str | None:
        reasons: list[str | None] = []
        for number, session in enumerate(self.sessions):
            if own := [sample for sample in samples if self._number_of(sample) == number]:
                reasons.append(session.share_prefixes(own))
        return _unless_one_does(reasons)

    def visual_tokens(self, sample: Sample) -> int | None:
        return self.sessions[self._number_of(sample)].visual_tokens(sample)

    def check_image_sensitivity(self, samples: Sequence[Sample]) -> None:
        for number, session in enumerate(self.sessions):
            if own := [sample for sample in samples if self._number_of(sample) == number]:
                session.check_image_sensitivity(own)


class _Every(_Several):
    def __init__(
        self, names: Sequence[str], sessions: Sequence[OpenTeacher], can_score: bool
    ) -> None:
        super().__init__(names, sessions)
        self._can_score = can_score

    def stream(
        self, batches: Iterable[Sequence[Request]], decoding: Decoding, *, workers: int = 0
    ) -> Iterator[Answered]:
        if decoding.top_log_probabilities:
            self.require_one_tokenizer()
        for batch in batches:
            by_teacher: list[list[Answer]] = []
            for name, session in zip(self.names, self.sessions, strict=True):
                found: dict[tuple[str, int], Answer] = {}
                for requests, answers in session.stream([batch], decoding, workers=workers):
                    for request, answer in zip(requests, answers, strict=True):
                        named = replace(answer, teacher=name)
                        found[request.sample.id, request.number] = named
                by_teacher.append([found[r.sample.id, r.number] for r in batch])
            choose = self._likeliest if self._can_score else self._most_agreed
            samples = [request.sample for request in batch]
            yield batch, choose(samples, by_teacher, bool(decoding.top_log_probabilities))

    def expected_length(self, sample: Sample) -> int:
        return max(session.expected_length(sample) for session in self.sessions)

    def share_prefixes(self, samples: Sequence[Sample]) -> str | None:
        return _unless_one_does([session.share_prefixes(samples) for session in self.sessions])

    def visual_tokens(self, sample: Sample) -> int | None:
        return self.sessions[0].visual_tokens(sample)

    def check_image_sensitivity(self, samples: Sequence[Sample]) -> None:
        for session in self.sessions:
            session.check_image_sensitivity(samples)

    def _likeliest(
        self, samples: Sequence[Sample], by_teacher: Sequence[Sequence[Answer]], scored: bool
    ) -> list[Answer]:
        """The answer whose tokens all teachers together give the highest mean log-probability."""
        worth: list[list[float]] = []
        own: list[list[ScoredAnswer]] = []
        for writer, answers in enumerate(by_teacher):
            texts = [answer.text for answer in answers]
            found = [session.score(samples, texts) for session in self.sessions]
            own.append(found[writer])
            worth.append(
                [fmean(one.mean_log_probability for one in row) for row in zip(*found, strict=True)]
            )
        chosen: list[Answer] = []
        for place in range(len(samples)):
            candidates = [answers[place] for answers in by_teacher]
            best = max(_sound(candidates), key=lambda number: worth[number][place])
            kept = own[best][place]
            answer = replace(candidates[best], mean_log_probability=kept.mean_log_probability)
            chosen.append(replace(answer, scored=kept) if scored else answer)
        return chosen

    def _most_agreed(
        self, samples: Sequence[Sample], by_teacher: Sequence[Sequence[Answer]], scored: bool
    ) -> list[Answer]:
        """The answer that has most words in common with the others'; the first of equal ones."""
        chosen: list[Answer] = []
        for candidates in zip(*by_teacher, strict=True):
            texts = [answer.text for answer in candidates]
            sound = _sound(candidates)
            best = max(sound, key=lambda number: fmean(_overlap(texts[number], t) for t in texts))
            chosen.append(candidates[best])
        return chosen


def _unless_one_does(reasons: Sequence[str | None]) -> str | None:
    """Why none shares beginnings; None where one does, since batches are then made for it."""
    refused = [reason for reason in reasons if reason is not None]
    return "; ".join(dict.fromkeys(refused)) if len(refused) == len(reasons) else None


def _sound(candidates: Sequence[Answer]) -> list[int]:
    """The candidates that are whole answers; all where none is."""
    whole = [
        number
        for number, answer in enumerate(candidates)
        if answer.failure is None and answer.finished and answer.text.strip()
    ]
    return whole or list(range(len(candidates)))


def _overlap(one: str, other: str) -> float:
    """F1 of the words that two texts share."""
    ours, theirs = Counter(one.lower().split()), Counter(other.lower().split())
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 0.0


def _difference(sessions: Sequence[OpenTeacher]) -> str | None:
    """Why the distributions of these teachers are not over the same tokens; None where they are."""
    if any(session.vocabulary_rows is None for session in sessions):
        return "the tokenizer of one is not known here"
    from transformers import AutoTokenizer

    from limbeck.models.vocabulary import shared_vocabulary

    known: list[tuple[Any, int]] = []
    for session in sessions:
        with TemporaryDirectory(prefix="limbeck-tokenizer-") as folder:
            session.save_tokenizer(Path(folder))
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            known.append((tokenizer, cast(int, session.vocabulary_rows)))
    (first, rows), *others = known
    for number, (tokenizer, own_rows) in enumerate(others, start=1):
        try:
            shared_vocabulary(first, tokenizer, rows, own_rows)
        except UsageError as error:
            return f"teachers 0 and {number}: {error.what}"
        if sessions[number].answer_frame != sessions[0].answer_frame:
            return f"teachers 0 and {number} end an answer with different tokens"
    return None
