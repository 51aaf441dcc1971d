"""The label stage: the teacher's answers, checked, and its distributions along them.

Rows are labelled in fixed batches of similar length; a batch is written whole or not at all, so a
run that was killed goes on with the first unfinished batch and ends in the same files.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck import journal
from limbeck.data.labels import TEACHER, TOKENIZER, label_from, write_labels
from limbeck.errors import DataError, TeacherError
from limbeck.progress import meter
from limbeck.recipe.sections import Checks, Labelling
from limbeck.records import Label, Sample
from limbeck.store import write_json
from limbeck.teachers import Answer, OpenTeacher, ScoredAnswer, Teacher, batches_by_length

if TYPE_CHECKING:
    from limbeck.signals.writer import SignalWriter

MIN_ARGMAX_AGREEMENT = 0.99
"""Share of greedily decoded tokens that must be the argmax of the distribution kept for them."""

BATCHES_BETWEEN_SAVES = 4
"""A kill loses at most the labels of so many batches."""

SAMPLES_LOOKED_AT = 8
"""How many samples the mean of the visual tokens is taken over."""

JOURNAL = "labels.jsonl"


def label(
    output: Path,
    *,
    teacher: Teacher,
    samples: Sequence[Sample],
    data: Path,
    settings: Labelling,
    key: dict[str, Any],
    device: str,
) -> dict[str, Any]:
    """Label `samples` and write `labels.parquet`, the signals and the teacher's tokenizer.

    Args:
        output: the stage's folder.
        teacher: who labels.
        samples: what is labelled.
        data: the data stage's folder.
        settings: what is asked for and kept.
        key: what determines the teacher's distributions, for the cache.
        device: where a local teacher runs.

    Raises:
        DataError: gold answers are asked for and a sample has none.
        TeacherError: the images do not reach the teacher, too many answers are unfit, or greedy
            answers are not the argmax of the distributions.
    """
    output.mkdir(parents=True, exist_ok=True)
    if settings.answers == "gold":
        _require_references(samples)
    session = teacher.open(data, device=device)
    writer = _signal_writer(output, key, settings, session)
    rows = map(label_from, journal.read(output / JOURNAL))
    # A shard that the kill tore is gone, and its labels have to be scored again.
    done = {r.sample_id: r for r in rows if not writer or not r.valid or r.sample_id in writer.done}
    if not done:
        _check_sensitivity(session, samples, settings)
        session.save_tokenizer(output / TOKENIZER)
        write_json(output / TEACHER, _describe(session, samples))
    unsaved: list[Label] = []
    all_batches = list(batches_by_length(session, samples, settings.batch_size))
    with meter("labelling", len(samples), done=len(done)) as progress:
        for number, batch in enumerate(all_batches, start=1):
            if any(sample.id not in done for sample in batch):
                labels = judge(batch, _answers(session, batch, settings), settings.checks)
                if writer is not None:
                    labels = _write_signals(writer, session, batch, labels, settings)
                unsaved += labels
                progress.advance(len(batch))
            if number % BATCHES_BETWEEN_SAVES == 0 or number == len(all_batches):
                # Signals first: a label without its signal would be trained on without one.
                if writer is not None:
                    writer.flush()
                journal.append(output / JOURNAL, [asdict(row) for row in unsaved])
                done |= {row.sample_id: row for row in unsaved}
                unsaved = []
    ordered = [done[sample.id] for sample in samples]
    summary = summarise(ordered, settings)
    if writer is not None:
        summary["signals"] = writer.close()
        _require_agreement(summary["signals"], settings)
    write_labels(output, ordered)
    (output / JOURNAL).unlink(missing_ok=True)
    return summary


def judge(samples: Sequence[Sample], answers: Sequence[Answer], checks: Checks) -> list[Label]:
    """Labels with the reasons that make an answer unfit for training."""
    rows: list[Label] = []
    for sample, answer in zip(samples, answers, strict=True):
        reasons = tuple(unfit_reasons(answer, checks))
        rows.append(
            Label(sample.id, answer.text, not reasons, reasons, answer.tokens, answer.finished)
        )
    return rows


def unfit_reasons(answer: Answer, checks: Checks) -> Iterator[str]:
    """Why an answer must not be trained on; nothing when it may."""
    text = answer.text.strip()
    if not text:
        yield "empty"
        return
    if len(text) < checks.min_characters:
        yield f"shorter than {checks.min_characters} characters"
    if checks.max_characters is not None and len(text) > checks.max_characters:
        yield f"longer than {checks.max_characters} characters"
    if checks.must_finish and not answer.finished:
        yield "cut by max_new_tokens"
    if repetition(text) > checks.max_repetition:
        yield "repeats itself"
    if checks.pattern is not None and not re.fullmatch(checks.pattern, text, re.DOTALL):
        yield "does not match the pattern"
    if "�" in text:
        yield "broken characters"


def repetition(text: str, n: int = 4) -> float:
    """Share of the text's word n-grams that stood earlier in it; 0 for texts without any."""
    words = text.split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


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
        raise TeacherError(
            f"{len(unfit)} of {len(labels)} answers are unfit ({common}), for example sample "
            f"{example.sample_id}: {example.text[:80]!r}",
            where="label.checks.max_unfit_share",
            mend="mend the teacher or the prompt, raise label.max_new_tokens, or raise the share",
        )
    tokens = sum(row.tokens for row in labels if row.valid)
    return {
        "labels": len(labels),
        "valid": len(labels) - len(unfit),
        "unfit_reasons": dict(reasons),
        "answer_tokens": tokens,
        "answers": settings.answers,
        "signal": settings.signal,
    }


def _answers(session: OpenTeacher, batch: list[Sample], settings: Labelling) -> list[Answer]:
    if settings.answers == "gold":
        return [Answer(sample.references[0], 0, True) for sample in batch]
    return session.generate(
        batch,
        max_new_tokens=settings.max_new_tokens,
        temperature=settings.temperature,
        seed=settings.seed,
    )


def _signal_writer(
    output: Path, key: dict[str, Any], settings: Labelling, session: OpenTeacher
) -> SignalWriter[Any] | None:
    from limbeck.signals.writer import SignalWriter

    if settings.signal == "top_k":
        from limbeck.signals.top_k_coding import TopKCoding

        return SignalWriter(output, key, TopKCoding(settings.top_k, settings.temperatures))
    if settings.signal == "hidden":
        from limbeck.signals.hidden_coding import HiddenCoding

        return SignalWriter(output, key, HiddenCoding(session.linear_head()))
    return None


def _write_signals(
    writer: SignalWriter[Any],
    session: OpenTeacher,
    batch: list[Sample],
    labels: list[Label],
    settings: Labelling,
) -> list[Label]:
    """Score the fit answers, keep their distributions, and note their mean log-probability."""
    import torch

    from limbeck.signals.key import sample_key

    fit = [(s, row) for s, row in zip(batch, labels, strict=True) if row.valid]
    if not fit:
        return labels
    noted: dict[str, Label] = {}
    scored = session.score([s for s, _ in fit], [row.text for _, row in fit])
    for (sample, row), answer in zip(fit, scored, strict=True):
        signal = _signal_of(answer, settings)
        writer.append(sample.id, answer.answer_ids, signal, sample_key(sample, row.text))
        ids_N1 = torch.tensor(answer.answer_ids, device=answer.logits_NV.device)[:, None]
        logp_N1 = answer.logits_NV.log_softmax(-1).gather(-1, ids_N1)
        noted[sample.id] = replace(
            row, mean_log_probability=float(logp_N1.mean()), tokens=len(answer.answer_ids)
        )
    return [noted.get(row.sample_id, row) for row in labels]


def _signal_of(answer: ScoredAnswer, settings: Labelling) -> Any:
    """What the recipe keeps of the distributions along one answer."""
    if settings.signal == "top_k":
        from limbeck.signals.top_k import from_logits

        return from_logits(answer.logits_NV, settings.top_k, settings.temperatures)
    from limbeck.signals.hidden_coding import HiddenStates

    assert answer.hidden_NH is not None, "a teacher that shows its head shows what it reads"
    return HiddenStates(answer.hidden_NH, answer.logits_NV)


def _require_agreement(signals: dict[str, Any], settings: Labelling) -> None:
    agreement = signals["agreement"]
    # An answer that was cut is scored with an end token that the teacher did not choose.
    greedy = settings.answers == "generated" and settings.temperature == 0
    if greedy and settings.checks.must_finish and agreement < MIN_ARGMAX_AGREEMENT:
        raise TeacherError(
            f"only {agreement:.1%} of the greedy tokens are the argmax of the kept distribution",
            where="label",
            mend="answers change when re-tokenised; use a higher dtype or label.answers: gold",
        )


def _check_sensitivity(
    session: OpenTeacher, samples: Sequence[Sample], settings: Labelling
) -> None:
    seen = next((sample for sample in samples if sample.images), None)
    if seen is None:
        return
    answer = seen.references[0] if seen.references else _answers(session, [seen], settings)[0].text
    session.check_image_sensitivity(seen, answer)


def _describe(session: OpenTeacher, samples: Sequence[Sample]) -> dict[str, Any]:
    """What the student's preflight shows of the teacher; visual tokens over a few samples."""
    counts = [session.visual_tokens(s) for s in samples[:SAMPLES_LOOKED_AT] if s.images]
    mean = sum(counts) / len(counts) if counts else 0.0
    prefix, end_ids = session.answer_frame
    return {
        "head_rows": session.vocabulary_rows,
        "visual_tokens_mean": mean,
        "answer_prefix": prefix,
        "end_ids": end_ids,
    }


def _require_references(samples: Sequence[Sample]) -> None:
    without = [sample.id for sample in samples if not sample.references]
    if without:
        raise DataError(
            f"{len(without)} samples have no reference, the first is {without[0]}",
            where="label.answers: gold",
            mend="use label.answers: generated, or give the samples references",
        )
