"""Fidelity: how nearly a student has the teacher's distributions along the teacher's answers.

The student reads what the teacher answered (teacher forcing). At every token that the teacher
wrote, with p the teacher's and q the student's distribution over the shared vocabulary,

    agreement    whether the student's most probable token is the one that the teacher wrote
    KL           KL(p || q) in nats, on the teacher's k most probable tokens and one bucket that
                 holds all others on both sides: a lower bound of the whole (data processing)

Both are means over tokens. Tokens that the teacher did not write are left out: the end of an answer
that its limit cut, and what the chat template puts behind the end token. Log-probabilities come
from the cache of signals, in one byte each, so that a student that is the teacher has a KL near 0
and not of 0.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from limbeck import journal
from limbeck.data.labels import TEACHER, TOKENIZER
from limbeck.errors import UsageError
from limbeck.evaluate.predict import JOURNAL, read_predictions
from limbeck.progress import meter, say
from limbeck.records import Prediction, Sample
from limbeck.stop import stop_on_signals
from limbeck.store import write_json
from limbeck.teachers import OpenTeacher, Teacher, batches_by_length

if TYPE_CHECKING:
    from limbeck.signals.reader import SignalReader

FIDELITY = "fidelity.json"


def compare_with_teacher(
    output: Path,
    *,
    model: Teacher,
    signals: Path,
    key: dict[str, Any],
    predictions: Path,
    samples: Sequence[Sample],
    data: Path,
    batch_size: int,
    device: str,
) -> dict[str, Any]:
    """Write `fidelity.json`: of each sample its tokens, how many agree, the sum of their KL.

    Where the two cannot be compared token by token, it holds the reason as `why_not` instead.

    Args:
        output: the stage's folder.
        model: what is compared; it can "score" and gives "whole_distributions".
        signals: folder of the teacher's distributions.
        key: of that cache.
        predictions: folder of the teacher's answers.
        samples: what was answered.
        data: the data stage's folder.
        batch_size: samples scored at once.
        device: where the model runs.

    Returns:
        The manifest's summary: samples and tokens, or `why_not`.

    Raises:
        DataError: the cache is damaged, or of another teacher or other samples.
    """
    from limbeck.signals.key import sample_key
    from limbeck.signals.reader import SignalReader

    output.mkdir(parents=True, exist_ok=True)
    answers = {one.sample_id: one for one in read_predictions(predictions, "teacher")}
    reader = SignalReader(signals, key)
    reader.check_samples({s.id: sample_key(s, answers[s.id].text) for s in samples})
    about = json.loads((signals / TEACHER).read_text())
    session = model.open(data, device=device)
    try:
        if (reason := _why_not(session, signals, about)) is not None:
            say(f"  fidelity is not measured: {reason}")
            write_json(output / FIDELITY, {"why_not": reason, "samples": []})
            return {"why_not": reason}
        rows = {row["id"]: row for row in journal.read(output / JOURNAL)}
        planned = list(batches_by_length(session, samples, batch_size))
        batches, total = session.left_of(planned, rows), len(samples)
        waiting = sum(map(len, batches))
        with (
            stop_on_signals() as stop,
            meter("fidelity", total, done=total - waiting) as progress,
        ):
            for batch in batches:
                texts = [answers[sample.id].text for sample in batch]
                for sample, scored in zip(batch, session.score(batch, texts), strict=True):
                    written = _written(answers[sample.id], about["end_ids"], scored.answer_ids)
                    found = _compared(reader, sample.id, scored.answer_ids, scored.logits_NV)
                    rows[sample.id] = {
                        "id": sample.id,
                        "tokens": written,
                        "agreed": sum(found[0][:written]),
                        "kl_nats": sum(found[1][:written]),
                    }
                journal.append(output / JOURNAL, [rows[sample.id] for sample in batch])
                progress.advance(len(batch))
                stop.raise_if_stopped()
    finally:
        session.close()
    listed = [rows[sample.id] for sample in samples]
    kept = reader.statistics
    facts = {
        "top_k": reader.k,
        "tail_mass": kept["tail_mass"]["1"],
        "teacher_agreement": kept["agreement"],
    }
    write_json(output / FIDELITY, {"why_not": None, **facts, "samples": listed})
    (output / JOURNAL).unlink(missing_ok=True)
    return {"samples": len(listed), "tokens": sum(row["tokens"] for row in listed)}


def _compared(
    reader: SignalReader, sample_id: str, answer_ids: tuple[int, ...], logits_NV: Any
) -> tuple[list[int], list[float]]:
    """Of each token whether the student would have written it, and KL(teacher || student)."""
    import torch

    from limbeck.losses.functional import divergence_rows

    signal = reader.get(sample_id, answer_ids)
    student_NV = logits_NV.detach().float().cpu()
    agreed_N = student_NV.argmax(-1) == torch.tensor(answer_ids)
    # A bucket of mass 0 on both sides may round below 0.
    kl_N = divergence_rows(student_NV.double(), signal, "forward", 1.0).clamp(min=0)
    return agreed_N.int().tolist(), kl_N.tolist()


def _written(answer: Prediction, end_ids: Sequence[int], answer_ids: Sequence[int]) -> int:
    """How many of the scored tokens the teacher wrote itself."""
    own = len(answer_ids) - len(end_ids)
    return own + 1 if answer.finished and end_ids else own


def _why_not(session: OpenTeacher, signals: Path, about: dict[str, Any]) -> str | None:
    """What keeps the student's tokens from being the teacher's; None if nothing does."""
    from transformers import AutoTokenizer

    from limbeck.models.vocabulary import shared_vocabulary

    def load(folder: Path) -> Any:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)

    with TemporaryDirectory() as folder:
        session.save_tokenizer(Path(folder))
        student, rows = load(Path(folder)), session.vocabulary_rows
    assert rows is not None, "a model that scores answers has a head"
    try:
        shared_vocabulary(load(signals / TOKENIZER), student, about["head_rows"], rows)
    except UsageError as error:
        return error.what
    if list(session.answer_frame) != [about["answer_prefix"], about["end_ids"]]:
        return "its chat template begins or ends answers with other tokens than the teacher's"
    return None
