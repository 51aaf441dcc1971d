"""The answers that samples are trained on: references where gold is drawn, else the teacher's best.

With `label.samples` above 1 every batch is asked for so many times, one number after the other, so
that a batch takes no more memory than before; a sample is passed on when it has all of its answers.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from limbeck.labelling.checks import unfit_reasons
from limbeck.labelling.choice import answer_kinds, choose
from limbeck.recipe.labelling import Checks, Labelling
from limbeck.records import Label, Sample
from limbeck.teachers import Answer, Decoding, OpenTeacher, Request


@dataclass(frozen=True)
class Kept:
    """The answer a sample is to have, how much others agreed with it, and whether it is gold."""

    sample: Sample
    answer: Answer
    agreement: float | None = None
    gold: bool = False


def answered(
    session: OpenTeacher,
    batches: Sequence[Sequence[Sample]],
    settings: Labelling,
    decoding: Decoding,
    *,
    confident: bool = False,
) -> Generator[list[Kept]]:
    """Every sample of the batches with its answer, in groups as they get ready.

    Args:
        session: who answers.
        batches: what is asked, in the order of asking.
        settings: how many answers, and which is kept.
        decoding: how they are written.
        confident: find out the mean log-probability of the teacher's answers, whether or not the
            settings need it.

    Raises:
        TeacherError: log-probabilities are needed, and the teacher neither gives them nor scores.
    """
    kinds = answer_kinds([sample for batch in batches for sample in batch], settings)
    generated: list[list[Request]] = []
    for batch in batches:
        gold = [sample for sample in batch if kinds[sample.id] == "gold"]
        if gold:
            yield [Kept(s, Answer(s.references[0], 0, True), gold=True) for s in gold]
        own = [sample for sample in batch if kinds[sample.id] == "generated"]
        if own:
            generated += [[Request(s, number) for s in own] for number in range(settings.samples)]
    waiting: dict[str, dict[int, Answer]] = {}
    with closing(session.stream(generated, decoding, workers=settings.workers)) as groups:
        for requests, answers in groups:
            ready: list[tuple[Sample, list[Answer]]] = []
            for request, answer in zip(requests, answers, strict=True):
                given = waiting.setdefault(request.sample.id, {})
                given[request.number] = answer
                if len(given) == settings.samples:
                    del waiting[request.sample.id]
                    ready.append((request.sample, [given[n] for n in range(settings.samples)]))
            if ready and (confident or settings.needs_confidence):
                ready = _with_confidence(session, ready, settings)
            if ready:
                yield [_best(sample, several, settings) for sample, several in ready]


def labels_of(kept: Sequence[Kept], checks: Checks) -> list[Label]:
    """Labels with the reasons that make an answer unfit for training."""
    rows: list[Label] = []
    for one in kept:
        answer = one.answer
        reasons = tuple(unfit_reasons(answer, checks, agreement=one.agreement))
        rows.append(
            Label(
                one.sample.id,
                answer.text,
                not reasons,
                reasons,
                answer.tokens,
                answer.finished,
                answer.mean_log_probability,
                answer.teacher,
                one.agreement,
                one.gold,
            )
        )
    return rows


def _best(sample: Sample, answers: Sequence[Answer], settings: Labelling) -> Kept:
    if settings.samples == 1:
        return Kept(sample, answers[0])
    chosen = choose(
        answers,
        settings.chosen_by,
        fit=lambda answer: not any(unfit_reasons(answer, settings.checks)),
        sample=sample,
    )
    return Kept(sample, chosen.answer, chosen.agreement)


def _with_confidence(
    session: OpenTeacher, ready: Sequence[tuple[Sample, list[Answer]]], settings: Labelling
) -> list[tuple[Sample, list[Answer]]]:
    """The answers with their mean log-probability; those that came without are scored."""
    unknown = [
        (at, number)
        for at, (_, answers) in enumerate(ready)
        for number, answer in enumerate(answers)
        if answer.mean_log_probability is None and answer.failure is None and answer.text.strip()
    ]
    found = [(sample, list(answers)) for sample, answers in ready]
    for first in range(0, len(unknown), settings.batch_size):
        asked = unknown[first : first + settings.batch_size]
        scored = session.score(
            [ready[at][0] for at, _ in asked], [ready[at][1][number].text for at, number in asked]
        )
        for (at, number), one in zip(asked, scored, strict=True):
            found[at][1][number] = replace(
                ready[at][1][number],
                mean_log_probability=one.mean_log_probability,
                # Of several answers most are thrown away, and their distributions are large.
                scored=one if settings.samples == 1 else None,
            )
    return found
