"""The training stages: the student of an arm, and the fine-tuning of a teacher on gold answers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from limbeck.data.labels import TEACHER, TOKENIZER, read_labels
from limbeck.errors import DataError, UsageError
from limbeck.losses import Loss
from limbeck.losses.feature_loss import FeatureLoss
from limbeck.recipe.sections import (
    Adapter,
    FineTune,
    Labelling,
    ModelSection,
    PartName,
    Student,
    Training,
)
from limbeck.records import AlignedSignal, Features, Sample
from limbeck.signals import SignalSource
from limbeck.signals.features import FeatureCache, FeatureSource, JoinedFeatures, LiveFeatures
from limbeck.teachers import OpenTeacher, Teacher, share_prefixes
from limbeck.training.alignment import aligned_signal
from limbeck.training.batches import Example
from limbeck.training.job import Job, TeacherFacts
from limbeck.training.verbalising import keep_spoken, read_both

if TYPE_CHECKING:
    from limbeck.models.load import LoadedModel

MODEL = "student"
"""Sub-folder of a finished training stage that `from_pretrained` loads."""
VERBALISERS = "verbalisers"
"""Sub-folder with the student's verbalisers as they are after training; `limbeck verbalise` reads
them, and the student does not."""


@dataclass(frozen=True)
class LabelFolder:
    """A label stage's folder, the samples whose labels are trained on, and the key of its cache.

    The key is what determines the labeller's distributions in this run.
    """

    folder: Path
    samples: Sequence[Sample]
    key: dict[str, Any]


def train_student(
    output: Path,
    *,
    section: Student,
    losses: Sequence[Loss],
    training: Training,
    labelling: Labelling,
    teacher: Teacher,
    labels: Sequence[LabelFolder],
    data: Path,
    seed: int,
    device: str,
    title: str,
    features: Sequence[Path] = (),
    verbalisers: Sequence[Path] = (),
) -> dict[str, Any]:
    """Train one arm's student on the labelled samples and write `student/` and metrics.jsonl.

    Of several label folders the first is the teacher's; no sample is in two of them. `features` are
    folders with the teacher's inner states, for losses on them, and `verbalisers` those of student
    and teacher, where layers speak.

    Raises:
        DataError: a loss wants gold answers and samples have none; labels and data disagree.
        UsageError: a loss compares tokens, and the teacher's tokenizer is not the student's.
    """
    import torch

    from limbeck.models.load import load_model
    from limbeck.models.vocabulary import shared_vocabulary

    by_folder = [make_examples(one.samples, one.folder, labelling, losses) for one in labels]
    examples = [example for own in by_folder for example in own]
    first = labels[0].folder
    about_teacher = json.loads((first / TEACHER).read_text())
    student = load_model(section, device=device)
    rows = student.model.get_output_embeddings().weight.shape[0]
    tokenizer, teacher_rows = student.tokenizer, rows
    signalled = [loss for loss in losses if loss.needs_signal]
    by_token = not all(loss.crosses_tokenizers for loss in signalled)
    if by_token:
        for other in labels[1:]:
            own_rows = json.loads((other.folder / TEACHER).read_text())["head_rows"]
            shared_vocabulary(_teacher_tokenizer(other.folder), student.tokenizer, own_rows, rows)
        tokenizer, teacher_rows = _teacher_tokenizer(first), about_teacher["head_rows"]
    vocabulary = shared_vocabulary(tokenizer, student.tokenizer, teacher_rows, rows)
    job = Job(output, student, vocabulary, examples, data, losses, training, seed, title)
    about = TeacherFacts(about_teacher["visual_tokens_mean"])

    def columns_of(text: str) -> list[int]:
        return vocabulary.columns_of(torch.tensor(student.encoder.answer_tokens(text))).tolist()

    inner = [loss for loss in losses if isinstance(loss, FeatureLoss)]
    session: OpenTeacher | None = None
    if labelling.signal == "live" and (signalled or inner):
        session = teacher.open(data, device=device)
        about = replace(about, live_memory=session.describe_memory())
        if training.share_prefix:
            share_prefixes(session, [example.sample for example in examples])
    if verbalisers:
        own, theirs = verbalisers
        job.verbalisers = read_both(student, vocabulary, own, theirs)
    if inner:
        text_of = answer_texts(examples, job.own_answers, student.encoder.answer_tokens)
        job.features = (
            JoinedFeatures([FeatureCache(folder) for folder in features])
            if session is None
            else live_features(session, examples, text_of, student, inner)
        )
    if signalled:
        if session is not None:
            job.signals = live_signal(session, examples, job.own_answers, columns_of)
        else:
            sources = [
                cached_signal(one.folder, one.key, own, labelling.signal, device)
                for one, own in zip(labels, by_folder, strict=True)
            ]
            job.signals = joined_signal(sources, by_folder)
        if not by_token:
            _refuse_own_answers(signalled)
            job.signals, job.spans = aligned_signal(
                job.signals,
                examples,
                losses,
                encoder=student.encoder,
                teacher_tokenizer=_teacher_tokenizer(first),
                about_teacher=about_teacher,
            )
    with closing(session) if session is not None else nullcontext():
        summary = _train(job, section.adapter, section.freeze, about)
    if verbalisers and os.environ.get("RANK", "0") == "0":
        keep_spoken(job, verbalisers[0], output / VERBALISERS)
    return {**summary, "signal": labelling.signal if signalled else None}


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
    examples: list[Example] = []
    for sample in samples:
        row = texts[sample.id]
        if not row.valid:
            continue
        answers = {"teacher": row.text, "student": ""}  # the student has yet to write its own
        for target in targets:
            answer = answers.get(target)
            if answer is None:
                answer = _gold(sample, "losses.target: gold")
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


def joined_signal(
    sources: Sequence[SignalSource], examples: Sequence[Sequence[Example]]
) -> SignalSource:
    """One source of all signals, each sample's from the cache that its label came with."""
    from limbeck.signals.joined import JoinedSignals

    if len(sources) == 1:
        return sources[0]
    pairs = zip(sources, examples, strict=True)
    return JoinedSignals({e.sample.id: source for source, own in pairs for e in own})


def live_signal(
    session: OpenTeacher,
    examples: Sequence[Example],
    own_answers: Mapping[str, str] | None = None,
    tokens_of: Callable[[str], Sequence[int]] | None = None,
) -> SignalSource:
    """Signals computed by the teacher while the student trains.

    Args:
        session: the teacher.
        examples: the labelled answers.
        own_answers: what the student last wrote, by sample id; changes while it trains.
        tokens_of: the student's tokens of an answer, to tell its own from the labelled one.
    """
    from limbeck.signals.live import LiveSignal, joined

    text_of = answer_texts(examples, own_answers, tokens_of)
    samples = {example.sample.id: example.sample for example in examples}

    def signal_of(ids: Sequence[str], answers: Sequence[Sequence[int]]) -> AlignedSignal:
        texts = [text_of(i, answer) for i, answer in zip(ids, answers, strict=True)]
        scored = session.score([samples[i] for i in ids], texts)
        for sample_id, answer, teacher in zip(ids, answers, scored, strict=True):
            if list(teacher.answer_ids) != list(answer):
                raise DataError(
                    "teacher and student cut the answer into different tokens",
                    where=f"sample {sample_id}",
                    mend="their end-of-turn tokens differ; use kind: cross_tokenizer",
                )
        return joined([teacher.signal for teacher in scored])

    return LiveSignal(signal_of)


def answer_texts(
    examples: Sequence[Example],
    own_answers: Mapping[str, str] | None,
    tokens_of: Callable[[str], Sequence[int]] | None,
) -> Callable[[str, Sequence[int]], str]:
    """From a sample and the tokens of an answer to its text: the student's own or the labelled."""
    # Where gold answers are labelled, examples of either target have the labelled text.
    labelled = {e.sample.id: e for e in sorted(examples, key=lambda e: e.target == "teacher")}

    def text_of(sample_id: str, answer: Sequence[int]) -> str:
        own = own_answers.get(sample_id) if own_answers else None
        if own is not None and tokens_of is not None and list(tokens_of(own)) == list(answer):
            return own
        return labelled[sample_id].answer

    return text_of


def live_features(
    session: OpenTeacher,
    examples: Sequence[Example],
    text_of: Callable[[str, Sequence[int]], str],
    student: LoadedModel,
    losses: Sequence[FeatureLoss],
) -> FeatureSource:
    """Inner states computed by the teacher while the student trains."""
    from limbeck.models.taps import shape_of

    samples = {example.sample.id: example.sample for example in examples}
    own = shape_of(student.base.config)
    taps = [theirs for loss in losses for _, theirs in loss.pairs(own, session.shape)]

    def features_of(ids: Sequence[str], answers: Sequence[Sequence[int]]) -> Features:
        texts = [text_of(i, answer) for i, answer in zip(ids, answers, strict=True)]
        return session.features([samples[i] for i in ids], texts, taps)

    return LiveFeatures(session.shape, features_of)


def _train(
    job: Job,
    adapter: Adapter | None,
    freeze: Sequence[PartName],
    teacher: TeacherFacts | None = None,
) -> dict[str, Any]:
    """Check, adapt, train, save; shared by students and teachers."""
    import torch

    from limbeck.models.adapt import prepare_for_training
    from limbeck.training.loop import train
    from limbeck.training.preflight import preflight
    from limbeck.training.vision_cache import FOLDER

    job.output.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(job.seed)
    facts = preflight(job, teacher)
    adapted = prepare_for_training(
        job.student,
        adapter=adapter,
        freeze=freeze,
        gradient_checkpointing=job.training.gradient_checkpointing,
    )
    summary = train(job)
    if os.environ.get("RANK", "0") == "0":  # two ranks would remove each other's files
        shutil.rmtree(job.output / MODEL, ignore_errors=True)
        job.student.save(job.output / MODEL)
        shutil.rmtree(job.output / FOLDER, ignore_errors=True)
    return {**adapted, **summary, "preflight": facts}


def _gold(sample: Sample, where: str) -> str:
    if not sample.references:
        raise DataError(
            f"sample {sample.id} has no reference",
            where=where,
            mend="give the samples references, or train on target: teacher",
        )
    return sample.references[0]


def _refuse_own_answers(losses: Sequence[Loss]) -> None:
    if any(loss.target == "student" for loss in losses):
        raise UsageError(
            "the student's own answers have no spans of the teacher's tokenizer",
            where="losses.target: student",
            mend="use kind: divergence with a student of the teacher's tokenizer",
        )


def _teacher_tokenizer(labels: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(labels / TOKENIZER, local_files_only=True)
