"""The answers that samples are trained on: references where gold is drawn, else the teacher's best.

With `label.samples` above 1 every batch is asked for so many times, one number after the other, so
that a batch takes no more memory than before; a sample is passed on when it has all of its answers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from limbeck.labelling.checks import unfit_reasons
from limbeck.labelling.choice import answer_kinds, choose
from limbeck.recipe.labelling import Checks, Labelling
from limbeck.records import Dense, Label, Sample
from limbeck.teachers import Answer, Decoding, OpenTeacher, Request, ScoredAnswer


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
) -> Iterator[list[Kept]]:
    """Every sample of the batches with its answer, in groups as they get ready.

    Args:
        session: who answers.
        batches: what is asked, in the order of asking.
        settings: how many answers, and which is kept.
        decoding: how they are written.

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
    for requests, answers in session.stream(generated, decoding, workers=settings.workers):
        ready: list[Kept] = []
        for request, answer in zip(requests, answers, strict=True):
            given = waiting.setdefault(request.sample.id, {})
            given[request.number] = answer
            if len(given) == settings.samples:
                del waiting[request.sample.id]
                ordered = [given[number] for number in range(settings.samples)]
                ready.append(_best(session, request.sample, ordered, settings))
        if ready:
            yield ready


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
                one.agreement,
                one.gold,
            )
        )
    return rows


def _best(
    session: OpenTeacher, sample: Sample, answers: Sequence[Answer], settings: Labelling
) -> Kept:
    if settings.needs_confidence:
        answers = _with_confidence(session, sample, answers)
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
    session: OpenTeacher, sample: Sample, answers: Sequence[Answer]
) -> list[Answer]:
    """The answers with their mean log-probability; those that came without are scored."""
    unknown = [
        i
        for i, answer in enumerate(answers)
        if answer.mean_log_probability is None and answer.failure is None and answer.text.strip()
    ]
    found = list(answers)
    if unknown:
        scored = session.score([sample] * len(unknown), [answers[i].text for i in unknown])
        for i, one in zip(unknown, scored, strict=True):
            found[i] = replace(answers[i], mean_log_probability=_mean_log_probability(one))
    return found


def _mean_log_probability(scored: ScoredAnswer) -> float | None:
    import torch

    if not isinstance(scored.signal, Dense):
        return None
    logits_NV = scored.logits_NV
    ids_N1 = torch.tensor(scored.answer_ids, device=logits_NV.device)[:, None]
    return float(logits_NV.log_softmax(-1).gather(-1, ids_N1).mean())
