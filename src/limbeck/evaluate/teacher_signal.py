"""The stage that keeps the teacher's distributions along its own answers to the evaluation samples.

They are what students are compared with (`limbeck.evaluate.fidelity`); all arms share them. The
cache is that of labels: the k most probable tokens, and the mass of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from limbeck.data.labels import TEACHER, TOKENIZER
from limbeck.evaluate.predict import read_predictions
from limbeck.progress import meter
from limbeck.records import Sample
from limbeck.stop import stop_on_signals
from limbeck.store import write_json
from limbeck.teachers import Teacher, batches_by_length

TEMPERATURES = (1.0,)


def keep_teacher_signal(
    output: Path,
    *,
    teacher: Teacher,
    predictions: Path,
    samples: Sequence[Sample],
    data: Path,
    key: dict[str, Any],
    top_k: int,
    batch_size: int,
    device: str,
) -> dict[str, Any]:
    """Score the teacher's answers and write the cache, its tokenizer, and facts about it.

    Args:
        output: the stage's folder; one that was killed goes on.
        teacher: can "score" and gives "whole_distributions".
        predictions: folder of its answers.
        samples: what it answered.
        data: the data stage's folder.
        key: what determines its distributions.
        top_k: tokens kept of each distribution.
        batch_size: samples scored at once.
        device: where it runs.

    Returns:
        The manifest's summary: that of the cache.
    """
    from limbeck.signals.key import sample_key
    from limbeck.signals.top_k import from_logits
    from limbeck.signals.top_k_coding import TopKCoding
    from limbeck.signals.writer import SignalWriter

    output.mkdir(parents=True, exist_ok=True)
    texts = {one.sample_id: one.text for one in read_predictions(predictions, "teacher")}
    writer = SignalWriter(output, key, TopKCoding(top_k, TEMPERATURES))
    session = teacher.open(data, device=device)
    try:
        session.save_tokenizer(output / TOKENIZER)
        prefix, end_ids = session.answer_frame
        about = {"head_rows": session.vocabulary_rows, "answer_prefix": prefix, "end_ids": end_ids}
        write_json(output / TEACHER, about)
        planned = list(batches_by_length(session, samples, batch_size))
        batches = session.left_of(planned, writer.done)
        waiting = sum(map(len, batches))
        total = len(samples)
        with (
            stop_on_signals() as stop,
            meter("the teacher's distributions", total, done=total - waiting) as progress,
        ):
            for batch in batches:
                answers = [texts[sample.id] for sample in batch]
                scored = session.score(batch, answers)
                for sample, text, one in zip(batch, answers, scored, strict=True):
                    signal = from_logits(one.logits_NV, top_k, TEMPERATURES)
                    writer.append(sample.id, one.answer_ids, signal, sample_key(sample, text))
                progress.advance(len(batch))
                if stop.signal_name is not None:
                    writer.flush()
                stop.raise_if_stopped()
    finally:
        session.close()
    return writer.close()
