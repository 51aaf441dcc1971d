"""The training stages: the student of an arm, and the fine-tuning of a teacher on gold answers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.data.labels import TEACHER, TOKENIZER, read_labels
from limbeck.errors import DataError
from limbeck.losses import Loss
from limbeck.recipe.sections import (
    Adapter,
    FineTune,
    Labelling,
    ModelSection,
    PartName,
    Student,
    Training,
)
from limbeck.records import Sample
from limbeck.signals import SignalSource
from limbeck.teachers import OpenTeacher, Teacher
from limbeck.training.batches import Example
from limbeck.training.job import Job

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "student"
"""Sub-folder of a finished training stage that `from_pretrained` loads."""


def train_student(
    output: Path,
    *,
    section: Student,
    losses: Sequence[Loss],
    training: Training,
    labelling: Labelling,
    teacher: Teacher,
    samples: Sequence[Sample],
    data: Path,
    labels: Path,
    cache_key: dict[str, Any],
    seed: int,
    device: str,
    title: str,
) -> dict[str, Any]:
    """Train one arm's student on the labelled samples and write `student/` and metrics.jsonl.

    Raises:
        DataError: a loss wants gold answers and samples have none; labels and data disagree.
        UsageError: a loss needs the teacher's distributions where none are kept.
    """
    from limbeck.models.load import load_model
    from limbeck.models.vocabulary import shared_vocabulary

    examples = make_examples(samples, labels, labelling, losses)
    about_teacher = json.loads((labels / TEACHER).read_text())
    student = load_model(section, device=device)
    rows = student.model.get_output_embeddings().weight.shape[0]
    signals: SignalSource | None = None
    if any(loss.needs_signal for loss in losses):
        tokenizer = _teacher_tokenizer(labels)
        vocabulary = shared_vocabulary(
            tokenizer, student.tokenizer, about_teacher["head_rows"], rows
        )
        if labelling.signal == "live":
            signals = live_signal(teacher.open(data, device=device), examples)
        else:
            signals = cached_signal(labels, cache_key, examples, labelling.signal, device)
    else:
        vocabulary = shared_vocabulary(student.tokenizer, student.tokenizer, rows, rows)
    job = Job(output, student, vocabulary, examples, data, losses, training, seed, title, signals)
    visual_tokens = about_teacher["visual_tokens_mean"]
    return _train(job, section.adapter, section.freeze, teacher_visual_tokens=visual_tokens)


def fine_tune(
    output: Path,
    *,
    section: ModelSection,
    settings: FineTune,
    samples: Sequence[Sample],
    data: Path,
    device: str,
) -> dict[str, Any]:
    """Train a teacher on the first reference of each sample, with plain cross-entropy."""
    from limbeck.losses.cross_entropy import CrossEntropy
    from limbeck.models.load import load_model
    from limbeck.models.vocabulary import shared_vocabulary

    loss = CrossEntropy(target="gold")
    examples = [Example(s, _gold(s, "teacher.fine_tune"), "gold") for s in samples]
    model = load_model(section, device=device)
    rows = model.model.get_output_embeddings().weight.shape[0]
    vocabulary = shared_vocabulary(model.tokenizer, model.tokenizer, rows, rows)
    training, seed = settings.training, settings.seed
    job = Job(output, model, vocabulary, examples, data, [loss], training, seed, "teacher")
    return _train(job, settings.adapter, settings.freeze)


def make_examples(
    samples: Sequence[Sample], labels: Path, labelling: Labelling, losses: Sequence[Loss]
) -> list[Example]:
    """One example per sample and target that some loss asks for; unfit labels are left out.

    The samples with an unfit label are left out for gold targets too, so that every arm sees the
    same samples.

    Raises:
        DataError: labels and samples do not belong together, or a gold answer is missing.
    """
    texts = {row.sample_id: row for row in read_labels(labels)}
    missing = [s.id for s in samples if s.id not in texts]
    if missing:
        raise DataError(f"sample {missing[0]} has no label", where=str(labels))
    targets = sorted({loss.target for loss in losses})
    if labelling.answers == "gold":
        targets = ["teacher"] if targets == ["teacher"] else targets
    examples: list[Example] = []
    for sample in samples:
        row = texts[sample.id]
        if not row.valid:
            continue
        for target in targets:
            answer = row.text if target == "teacher" else _gold(sample, "losses.target: gold")
            examples.append(Example(sample, answer, target))
    return examples


def cached_signal(
    labels: Path, key: dict[str, Any], examples: Sequence[Example], kind: str, device: str
) -> SignalSource:
    """Signals read from the label stage's cache, after its keys were compared.

    Args:
        labels: the label stage's folder.
        key: what determines the teacher's distributions in this run.
        examples: what is trained on.
        kind: "top_k" or "hidden".
        device: where the teacher's head computes from hidden states.

    Raises:
        DataError: the cache was made by another teacher or on other samples; names the part.
    """
    from limbeck.signals.hidden import HiddenReader
    from limbeck.signals.key import sample_key
    from limbeck.signals.reader import SignalReader

    if kind == "hidden":
        reader = HiddenReader(labels, key, device=device)
    else:
        reader = SignalReader(labels, key)
    reader.check_samples(
        {e.sample.id: sample_key(e.sample, e.answer) for e in examples if e.target == "teacher"}
    )
    return reader


def live_signal(session: OpenTeacher, examples: Sequence[Example]) -> SignalSource:
    """Signals computed by the teacher while the student trains."""
    import torch

    from limbeck.signals.live import LiveSignal

    labelled = {e.sample.id: e for e in examples if e.target == "teacher"}

    def logits_of(ids: Sequence[str], answers: Sequence[Sequence[int]]) -> Tensor:
        scored = session.score([labelled[i].sample for i in ids], [labelled[i].answer for i in ids])
        for sample_id, answer, teacher in zip(ids, answers, scored, strict=True):
            if list(teacher.answer_ids) != list(answer):
                raise DataError(
                    "teacher and student cut the answer into different tokens",
                    where=f"sample {sample_id}",
                    mend="their end-of-turn tokens differ; train without divergence losses",
                )
        return torch.cat([teacher.logits_NV for teacher in scored])

    return LiveSignal(logits_of)


def _train(
    job: Job,
    adapter: Adapter | None,
    freeze: Sequence[PartName],
    *,
    teacher_visual_tokens: float | None = None,
) -> dict[str, Any]:
    """Check, adapt, train, save; shared by students and teachers."""
    import torch

    from limbeck.models.adapt import prepare_for_training
    from limbeck.training.loop import train
    from limbeck.training.preflight import preflight

    job.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(job.seed)
    facts = preflight(job, teacher_visual_tokens)
    adapted = prepare_for_training(
        job.student,
        adapter=adapter,
        freeze=freeze,
        gradient_checkpointing=job.training.gradient_checkpointing,
    )
    summary = train(job)
    shutil.rmtree(job.output / MODEL, ignore_errors=True)
    job.student.save(job.output / MODEL)
    return {**adapted, **summary, "preflight": facts}


def _gold(sample: Sample, where: str) -> str:
    if not sample.references:
        raise DataError(
            f"sample {sample.id} has no reference",
            where=where,
            mend="give the samples references, or train on target: teacher",
        )
    return sample.references[0]


def _teacher_tokenizer(labels: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(labels / TOKENIZER, local_files_only=True)
