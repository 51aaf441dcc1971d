"""What is printed before a training run: one batch as the student will see it."""

from __future__ import annotations

from typing import Any

from limbeck.data.packing import grouped, on_the_same_pictures, pictures_of
from limbeck.data.tokens import collate
from limbeck.errors import UsageError
from limbeck.models.sensitivity import check_image_sensitivity
from limbeck.models.shared_prefix import why_not_continued, why_not_packed
from limbeck.progress import say
from limbeck.training.job import Job, TeacherFacts

COARSE = 0.5
"""Share of the teacher's visual tokens below which the student is warned about."""


def preflight(job: Job, teacher: TeacherFacts | None = None) -> dict[str, Any]:
    """Print and return the decoded prompt and answer, the token counts and the vocabulary.

    Also proves that the language head, run on the supervised rows only, gives the model's own
    logits, and that the images reach the student.

    Raises:
        UsageError: the family's head does something that Limbeck does not know, or prompts cannot
            share their beginning although the recipe asks for it.
        LimbeckError: blanking the image does not move the student's answer logits.
    """
    encoder, tokenizer = job.student.encoder, job.student.tokenizer
    with_answer = [e for e in job.examples if e.target != "student"] or list(job.examples)
    example = next((e for e in with_answer if e.sample.images), with_answer[0])
    item = encoder.encode(example.sample, job.data, example.answer)
    job.student.verify_head(collate([item], pad_id=encoder.pad_id, side="right"))
    if example.sample.images:
        check_image_sensitivity(job.student, example.sample, job.data, example.answer)
    teacher_visual_tokens = teacher.visual_tokens_mean if teacher else None
    prompt_ids = item.input_ids_L.tolist()[: item.answer_start]
    facts: dict[str, Any] = {
        "sample": example.sample.id,
        "prompt": tokenizer.decode(_shortened(prompt_ids)),
        "supervised_answer": tokenizer.decode(item.answer_ids),
        "supervised_tokens": len(item.answer_ids),
        "visual_tokens": item.visual_tokens,
        "visual_tokens_of_the_teacher": teacher_visual_tokens,
        "shared_vocabulary": job.vocabulary.describe() if _compares_tokens(job) else None,
        "aligned_spans": _spans(job),
        "live_teacher": teacher.live_memory if teacher else None,
        "shared_prefix": _shared_prefix(job) if job.training.share_prefix else None,
    }
    for name, value in facts.items():
        if value is not None:
            say(f"  {name.replace('_', ' ')}: {value}")
    if teacher_visual_tokens and item.visual_tokens < teacher_visual_tokens * COARSE:
        say(
            "  warning: the student sees pictures in less than half of the teacher's tokens; what"
            " it cannot resolve it cannot learn to read (raise student.max_pixels)"
        )
    return facts


def _shared_prefix(job: Job) -> str:
    """How many examples share their pictures, after it was proved that this changes nothing."""
    some = on_the_same_pictures(example.sample for example in job.examples)
    if not some:
        return "no two samples show the same pictures"
    encoder = job.student.encoder
    answers = {e.sample.id: e.answer for e in job.examples}
    items = [encoder.encode(sample, job.data, answers[sample.id]) for sample in some]
    reason = why_not_packed(job.student, items)
    if reason is None and any(e.target == "student" for e in job.examples):
        reason = why_not_continued(job.student, items)
    if reason is not None:
        raise UsageError(
            reason, where="training.share_prefix", mend="set it to false for this student"
        )
    kinds = {pictures_of(e.sample) for e in job.examples}
    tokens = grouped(items, encoder.image_token_id)[0].shared
    return (
        f"{len(answers)} samples on {len(kinds)} sets of pictures (in the first, {tokens} tokens)"
    )


def _compares_tokens(job: Job) -> bool:
    """Whether a loss compares distributions token by token; else the teacher's do not matter."""
    return job.spans is None and any(loss.needs_signal for loss in job.losses)


def _spans(job: Job) -> str | None:
    """How much text the tokenizers of teacher and student cut alike, if they are two."""
    if job.spans is None:
        return None
    tokens = sum(len(job.student.encoder.answer_tokens(e.answer)) for e in job.examples)
    return f"{sum(job.spans):,} for {tokens:,} answer tokens of the student (other tokenizer)"


def _shortened(ids: list[int]) -> list[int]:
    """Runs of one repeated token (image placeholders) cut to two, to keep the print readable."""
    kept: list[int] = []
    for token in ids:
        if kept[-2:] != [token, token]:
            kept.append(token)
    return kept
