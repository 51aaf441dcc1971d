"""The response losses as plain functions, for any training loop.

With p the teacher's and q the student's distribution over the shared vocabulary, both
softmax(logits / T), the value of one position is

    forward          KL(p || q)                                  = sum_v p log(p / q)
    reverse          KL(q || p)
    jsd              beta KL(p || m) + (1 - beta) KL(q || m),    m = beta p + (1 - beta) q
    skew_forward     KL(p || skew p + (1 - skew) q)
    skew_reverse     KL(q || (1 - skew) p + skew q)
    total_variation  1/2 sum_v |p - q|

times T^2 unless `scale_by_temperature_squared` is off (Hinton et al. 2015: gradients keep their
size). Reduction: sum over the vocabulary, then the mean over scored positions. KL, JSD and total
variation as in Wen et al. 2023 (f-divergence distillation), JSD's beta as in Agarwal et al. 2024
(GKD), the skewed ones as in Ko et al. 2024 (DistiLLM).

A sparse teacher (`records.TopK`) is compared on its k kept tokens and one bucket more that holds
all others, on both sides. That is a coarser view of the same two distributions, so by the data
processing inequality no value exceeds the dense one, and at k = V they are equal. The student's
bucket is summed from its own columns: 1 - (sum of the kept) cancels to nothing on peaked rows.

A token that a model rules out (logit -inf) counts as log-probability `RULED_OUT` where the other
model has mass, and as nothing where it has none, so that no value and no gradient is infinite.

Mathematics is in float32; float64 stays float64. Torch is imported when a function first runs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, get_args

from limbeck.errors import UsageError
from limbeck.losses.buckets import RULED_OUT, check_kept, teacher_buckets
from limbeck.losses.directions import Direction, value
from limbeck.records import IGNORED, Dense, TeacherSignal, TopK, Unaligned

if TYPE_CHECKING:
    from torch import Tensor


def divergence(
    student_logits: Tensor,
    teacher: Tensor | TeacherSignal,
    labels: Tensor,
    direction: Direction = "forward",
    temperature: float = 1.0,
    beta: float = 0.5,
    skew: float = 0.1,
    scale_by_temperature_squared: bool = True,
) -> Tensor:
    """Mean divergence between teacher and student over the scored positions.

    Args:
        student_logits: [..., V], the logits at each position already aligned with its label: this
            function shifts nothing.
        teacher: logits [..., V], or a `records.Dense` or `records.TopK`. Its rows are either all
            positions in row-major order or exactly the scored ones; which, is told by their
            number. It gets no gradient.
        labels: [...]; a position with label -100 is not scored, other values are not looked at.
        direction: see the head of this module.
        temperature: divides both models' logits; a `TopK` must have it stored.
        beta: the teacher's share in the mixture of `jsd`, inside (0, 1).
        skew: share of the first distribution that is mixed into the second by `skew_forward` and
            `skew_reverse`, inside (0, 1).
        scale_by_temperature_squared: multiply by T^2.

    Returns:
        A scalar; with no scored position 0, with a graph.

    Raises:
        UsageError: shapes, row numbers, vocabularies or options do not fit, or the temperature
            is not stored.
    """
    scored = _scored(student_logits, labels)
    rows_NV = student_logits.reshape(-1, student_logits.shape[-1])[scored]
    signal = _rows_of(teacher, scored, rows_NV.shape[0])
    values_N = divergence_rows(
        rows_NV, signal, direction, temperature, beta, skew, scale_by_temperature_squared
    )
    return values_N.sum() / max(values_N.shape[0], 1)


def cross_entropy(student_logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log q(label) over the positions whose label is not -100, at T = 1.

    Args:
        student_logits: [..., V], already aligned with the labels.
        labels: [...], token ids (columns of the logits) or -100.

    Returns:
        A scalar; with no scored position 0, with a graph.

    Raises:
        UsageError: the shapes do not fit.
    """
    scored = _scored(student_logits, labels)
    rows_NV = student_logits.reshape(-1, student_logits.shape[-1])[scored]
    values_N = cross_entropy_rows(rows_NV, labels.reshape(-1)[scored])
    return values_N.sum() / max(values_N.shape[0], 1)


def divergence_rows(
    student_logits_NV: Tensor,
    teacher: TeacherSignal,
    direction: Direction = "forward",
    temperature: float = 1.0,
    beta: float = 0.5,
    skew: float = 0.1,
    scale_by_temperature_squared: bool = True,
) -> Tensor:
    """The divergence of every row, [N]; arguments and errors as in `divergence`."""
    _check_options(direction, temperature, beta, skew)
    if isinstance(teacher, Unaligned):
        raise UsageError(
            "a divergence compares rows of one tokenizer, and the teacher's is another",
            mend="use kind: cross_tokenizer",
        )
    if len(teacher) != student_logits_NV.shape[0]:
        raise UsageError(
            f"the teacher's signal has {len(teacher)} rows, the student's logits "
            f"{student_logits_NV.shape[0]}"
        )
    log_q = _log_probabilities(student_logits_NV, temperature)
    if isinstance(teacher, TopK):
        log_p, log_q = _buckets(teacher, log_q, temperature)
    else:
        same_vocabulary(teacher.logits_NV, log_q)
        log_p = _log_probabilities(teacher.logits_NV.detach(), temperature).to(log_q.dtype)
    values_N = value(log_p, log_q, direction, beta, skew)
    return values_N * temperature**2 if scale_by_temperature_squared else values_N


def cross_entropy_rows(student_logits_NV: Tensor, labels_N: Tensor) -> Tensor:
    """-log q(label) of every row, [N], at T = 1."""
    log_q_NV = _log_probabilities(student_logits_NV, 1.0)
    return -log_q_NV.gather(-1, labels_N.long().unsqueeze(-1)).squeeze(-1)


def same_vocabulary(teacher_NV: Tensor, student_NV: Tensor) -> None:
    """Compare numbers of columns.

    Raises:
        UsageError: they differ.
    """
    if teacher_NV.shape[-1] != student_NV.shape[-1]:
        raise UsageError(
            f"the teacher's logits have {teacher_NV.shape[-1]} columns, the student's "
            f"{student_NV.shape[-1]}",
            mend="keep the shared tokens on both sides (limbeck.models.vocabulary)",
        )


def _log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    import torch

    exact = logits if logits.dtype == torch.float64 else logits.float()
    log_q = (exact / temperature).log_softmax(-1)
    return log_q.masked_fill(log_q == -math.inf, RULED_OUT)


def _buckets(teacher: TopK, log_q_NV: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probabilities of both models on the kept tokens and, unless all are kept, the rest."""
    import torch

    ids_NK, vocabulary = teacher.ids_NK.long(), log_q_NV.shape[-1]
    everything = check_kept(teacher, vocabulary) == vocabulary
    log_q_NK = log_q_NV.gather(-1, ids_NK)
    if everything:
        return teacher_buckets(teacher, temperature, log_q_NK), log_q_NK
    tail_log_q = log_q_NV.scatter(-1, ids_NK, -math.inf).logsumexp(-1, keepdim=True)
    log_q = torch.cat([log_q_NK, tail_log_q], -1)
    return teacher_buckets(teacher, temperature, log_q), log_q


def _scored(student_logits: Tensor, labels: Tensor) -> Tensor:
    if student_logits.shape[:-1] != labels.shape:
        raise UsageError(
            f"logits of shape {tuple(student_logits.shape)} do not fit labels of shape "
            f"{tuple(labels.shape)}",
            mend="give logits [..., V] and labels [...]",
        )
    return labels.reshape(-1) != IGNORED


def _rows_of(teacher: Tensor | TeacherSignal, scored: Tensor, count: int) -> TeacherSignal:
    """The teacher's signal on the scored rows alone."""
    if isinstance(teacher, Unaligned):
        return teacher
    if isinstance(teacher, TopK):
        parts = [teacher.ids_NK, teacher.logp_NK, teacher.log_sums_NT]
        parts += [] if teacher.log_tails_NT is None else [teacher.log_tails_NT]
    else:
        parts = [teacher.logits_NV if isinstance(teacher, Dense) else teacher]
    flat = [part.reshape(-1, part.shape[-1]) for part in parts]
    rows = flat[0].shape[0]
    if any(part.shape[0] != rows for part in flat) or rows not in (scored.shape[0], count):
        raise UsageError(
            f"the teacher has {', '.join(str(part.shape[0]) for part in flat)} rows",
            mend=f"give one for each of the {scored.shape[0]} positions or of the {count} scored",
        )
    if rows != count:
        flat = [part[scored] for part in flat]
    if isinstance(teacher, TopK):
        return TopK(flat[0], flat[1], flat[2], teacher.temperatures, *flat[3:])
    return Dense(flat[0])


def _check_options(direction: str, temperature: float, beta: float, skew: float) -> None:
    if direction not in get_args(Direction):
        raise UsageError(
            f"direction {direction!r} is not known",
            mend=f"choose one of {', '.join(get_args(Direction))}",
        )
    if not 0 < temperature < math.inf:
        raise UsageError(f"temperature {temperature} is not a positive number")
    if direction == "jsd" and not 0 < beta < 1:
        raise UsageError(
            f"beta {beta:g} is not inside (0, 1)",
            mend="its limits are direction forward (0) and reverse (1)",
        )
    if direction.startswith("skew") and not 0 < skew < 1:
        raise UsageError(
            f"skew {skew:g} is not inside (0, 1)",
            mend="without skew these are directions forward and reverse",
        )
