"""The label stage: the teacher's answers, checked, and its distributions along them.

    share.py     several ranks on one job, and what earlier runs have done
    answers.py   whose answer a sample gets, and which of several
    checks.py    what makes an answer unfit
    signals.py   its distributions, into the cache
    rounds.py    what a round labels and trains on where the data grows

Samples are labelled in fixed batches of similar length. What is journalled is never asked for
again, so a run that was killed goes on and ends in the same files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.data.labels import TEACHER, TOKENIZER, write_labels
from limbeck.errors import DataError, StoppedError, TeacherError
from limbeck.labelling.answers import answered, labels_of
from limbeck.labelling.share import Share
from limbeck.labelling.signals import require_agreement, signal_writer, write_signals
from limbeck.progress import Meter, meter
from limbeck.recipe.sections import Labelling
from limbeck.records import Label, Sample
from limbeck.stop import stop_on_signals
from limbeck.store import write_json
from limbeck.teachers import (
    Capability,
    Decoding,
    OpenTeacher,
    Teacher,
    batches_by_length,
    share_prefixes,
)

if TYPE_CHECKING:
    from limbeck.signals.writer import SignalWriter

BATCHES_BETWEEN_SAVES = 4
"""A kill loses at most the labels of so many batches."""

SAMPLES_LOOKED_AT = 8
"""How many samples the mean of the visual tokens is taken over."""


def label(
    output: Path,
    *,
    teacher: Teacher,
    samples: Sequence[Sample],
    data: Path,
    settings: Labelling,
    key: dict[str, Any],
    device: str,
    responses: Path | None = None,
    confident: bool = False,
) -> dict[str, Any]:
    """Label `samples` and write `labels.parquet`, the signals and the teacher's tokenizer.

    Under torchrun or accelerate launch every rank labels a share; rank 0 returns when all have.

    Args:
        output: the stage's folder.
        teacher: who labels.
        samples: what is labelled.
        data: the data stage's folder.
        settings: what is asked for and kept.
        key: what determines the teacher's distributions, for the cache.
        device: where a local teacher runs.
        responses: where a served teacher keeps the answers that were paid for.
        confident: note the answers' mean log-probability also where no signals are kept.

    Returns:
        The manifest's summary; empty on other ranks than 0.

    Raises:
        DataError: gold answers are asked for and a sample has none.
        TeacherError: the images do not reach the teacher, too many answers are unfit, or greedy
            answers are not the argmax of the distributions.
    """
    if settings.answers == "gold":
        _require_references(samples)
    share = Share.of_this_rank(output)
    share.folder.mkdir(parents=True, exist_ok=True)
    job = output.name.removesuffix("-partial")
    session = teacher.open(data, device=device, responses=responses, job=job)
    try:
        if share.rank == 0 and not (output / TEACHER).is_file():
            _check_sensitivity(session, samples)
            if session.vocabulary_rows is not None:
                session.save_tokenizer(output / TOKENIZER)
            write_json(output / TEACHER, _describe(session, samples))
        why_apart = share_prefixes(session, samples) if settings.share_prefix else None
        writer = signal_writer(share.folder, key, settings, session)
        can = teacher.capabilities()
        decoding = _decoding(settings, can, confident=confident)
        # What signals are kept of is scored all the same.
        confident = confident and writer is None and {"score", "whole_distributions"} <= can
        _label_share(share, session, writer, samples, settings, decoding, confident=confident)
        if share.rank != 0:
            return {}
        signal_format = writer.coding.format if writer else None
        done = share.gather([sample.id for sample in samples], signal_format)
        ordered = [done[sample.id] for sample in samples]
        summary = summarise(ordered, settings)
        if settings.share_prefix:
            summary["shared_prefix"] = why_apart or "computed once"
        if usage := session.usage():
            summary["usage"] = usage
        if writer is not None:  # opened again, it also holds what the others wrote
            merged = signal_writer(output, key, settings, session)
            assert merged is not None
            summary["signals"] = merged.close()
            require_agreement(summary["signals"], settings)
        write_labels(output, ordered)
        share.tidy()
        return summary
    finally:
        session.close()


def summarise(labels: Sequence[Label], settings: Labelling) -> dict[str, Any]:
    """Counts for the manifest; stops when more than the allowed share is unfit.

    Raises:
        TeacherError: too many unfit answers, with the commonest reasons.
    """
    unfit = [row for row in labels if not row.valid]
    reasons = Counter(reason for row in unfit for reason in row.reasons)
    share = len(unfit) / len(labels) if labels else 0.0
    if unfit and (share > settings.checks.max_unfit_share or share == 1):
        common = ", ".join(f"{count}x {reason}" for reason, count in reasons.most_common(3))
        example = unfit[0]
        raised = ", or raise the share" if share < 1 else ""
        raise TeacherError(
            f"{len(unfit)} of {len(labels)} answers are unfit ({common}), for example sample "
            f"{example.sample_id}: {example.text[:80]!r}",
            where="label.checks.max_unfit_share",
            mend="mend the teacher or the prompt, raise label.max_new_tokens, loosen label.checks"
            f"{raised}",
        )
    tokens = sum(row.tokens for row in labels if row.valid)
    answered = Counter(row.teacher for row in labels if row.teacher is not None)
    return {
        "labels": len(labels),
        "valid": len(labels) - len(unfit),
        "unfit_reasons": dict(reasons),
        "answer_tokens": tokens,
        "answers": settings.answers,
        "signal": settings.signal,
        "gold": sum(row.gold for row in labels),
        **({"answered_by": dict(sorted(answered.items()))} if answered else {}),
    }


def _label_share(
    share: Share,
    session: OpenTeacher,
    writer: SignalWriter[Any] | None,
    samples: Sequence[Sample],
    settings: Labelling,
    decoding: Decoding,
    *,
    confident: bool,
) -> None:
    """Label what this rank has to, and journal it."""
    done = share.done(writer.coding.format if writer else None)
    size, together = settings.batch_size, settings.share_prefix
    own = share.of(list(batches_by_length(session, samples, size, together=together)))
    todo = session.left_of(own, done)
    total, left = sum(map(len, own)), sum(map(len, todo))
    unsaved: list[Label] = []
    unfit = 0

    def save() -> None:
        # Signals first: a label without its signal would be trained on without one.
        if writer is not None:
            writer.flush()
        share.note(unsaved)
        unsaved.clear()

    with (
        stop_on_signals() as stop,
        meter("labelling", total, done=total - left) as progress,
        closing(answered(session, todo, settings, decoding, confident=confident)) as groups,
    ):
        try:
            for kept in groups:
                labels = labels_of(kept, settings.checks)
                if writer is not None:
                    asked, answers = [one.sample for one in kept], [one.answer for one in kept]
                    labels = write_signals(writer, session, asked, answers, labels, settings)
                unsaved += labels
                unfit += sum(not row.valid for row in labels)
                _advance(progress, len(labels), unfit, session)
                if len(unsaved) >= BATCHES_BETWEEN_SAVES * settings.batch_size:
                    save()
                stop.raise_if_stopped()
        except StoppedError:
            save()
            raise
        save()


def _decoding(settings: Labelling, can: Collection[Capability], *, confident: bool) -> Decoding:
    """How the teacher is asked; distributions that come with the answers spare scoring them."""
    confident = confident or settings.needs_confidence
    wanted = settings.top_k if settings.signal == "top_k" else int(confident)
    return Decoding(
        settings.max_new_tokens,
        settings.temperature,
        settings.seed,
        wanted if "log_probabilities" in can else 0,
    )


def _advance(progress: Meter, count: int, unfit: int, session: OpenTeacher) -> None:
    progress.advance(count, facts={"unfit": unfit, **session.usage()})


def _check_sensitivity(session: OpenTeacher, samples: Sequence[Sample]) -> None:
    seen = [sample for sample in samples if sample.images]
    if seen:
        session.check_image_sensitivity(seen)


def _describe(session: OpenTeacher, samples: Sequence[Sample]) -> dict[str, Any]:
    """What the student's preflight shows of the teacher; visual tokens over a few samples."""
    counts = [session.visual_tokens(s) for s in samples[:SAMPLES_LOOKED_AT] if s.images]
    known = [count for count in counts if count is not None]
    about: dict[str, Any] = {
        "head_rows": session.vocabulary_rows,
        "visual_tokens_mean": sum(known) / len(known) if known else None,
    }
    if session.vocabulary_rows is not None:
        about["answer_prefix"], about["end_ids"] = session.answer_frame
    return about


def _require_references(samples: Sequence[Sample]) -> None:
    without = [sample.id for sample in samples if not sample.references]
    if without:
        raise DataError(
            f"{len(without)} samples have no reference, the first is {without[0]}",
            where="label.answers: gold",
            mend="use label.answers: generated, or give the samples references",
        )
