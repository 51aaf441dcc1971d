"""Universal logit distillation between tokenizers, T^2 sum_i |p_(i) - q_(i)|, over spans of text.

p_(1) >= p_(2) >= ... are the teacher's probabilities in falling order, q_(i) the student's, each
softmax(logits / T) over its own vocabulary, the shorter one filled up with zeros: the Wasserstein
distance under a uniform cost of Boizard et al. 2024 ("Towards Cross-Tokenizer Distillation: the
Universal Logit Distillation Loss for LLMs", arXiv 2402.12030, section 3). Direction: symmetric.
Reduction: sum over the vocabulary, summed over the spans (`records.Unaligned`); the count is their
number.

A span of several tokens a_0 ... a_m of one model is one distribution: the one before a_0, in which
a_0's entry is replaced by two, by the chain rule:

    P(a_0) P(a_1 | a_0) ... P(a_m | a_0 ... a_m-1)    the model writes the whole span
    P(a_0) minus that                                 it begins the span and leaves it

Entries that say "another token than a_0" stay, so the sum stays 1. TRL's GOLD trainer merges along
the same chain rule (`observed`), but multiplies every entry by the later tokens' probabilities,
after which the sum is no longer 1. A span of one token is its row as it is.

A sparse teacher (`records.TopK`) knows the first entries of the sorted vector: those not below
the least it keeps, nor below a_0 where a later token of the span was not kept. These are compared
one by one, and the sum of all others with the sum of the student's others. So no value exceeds the
dense one, and at k = V they are equal.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from pydantic import Field

from limbeck.errors import UsageError
from limbeck.losses import Loss
from limbeck.losses.buckets import RULED_OUT, stored_log_sums
from limbeck.losses.directions import RESOLUTION
from limbeck.records import (
    AnswerSize,
    LossTerm,
    StudentView,
    TeacherSignal,
    TopK,
    Unaligned,
)

if TYPE_CHECKING:
    from torch import Tensor


class CrossTokenizer(Loss):
    """Distils from a teacher of another family, whose tokenizer is not the student's.

    It compares how sure the two models are, not of what: give it company, such as a
    `cross_entropy`. At most 2 T^2 a span.
    """

    needs_signal: ClassVar[bool] = True
    crosses_tokenizers: ClassVar[bool] = True

    kind: Literal["cross_tokenizer"] = "cross_tokenizer"
    temperature: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="divides both models' logits"
    )
    scale_by_temperature_squared: bool = Field(
        True, description="multiply by T^2, so that gradients keep their size"
    )

    def __call__(self, student: StudentView, teacher: TeacherSignal | None) -> LossTerm:
        """Sum over the spans (the rows, where these line up with the teacher's) and their number.

        Raises:
            UsageError: there is no signal, or it does not hold the temperature.
        """
        if teacher is None:
            raise UsageError(
                "cross_tokenizer needs the teacher's distributions",
                mend="set label.signal to top_k, hidden or live",
            )
        pair = teacher if isinstance(teacher, Unaligned) else _one_row_each(student, teacher)
        known = _teacher_side(pair, self.temperature, student.logits_NV)
        values_S = _distances(known, _student_side(student, pair, self.temperature))
        scale = self.temperature**2 if self.scale_by_temperature_squared else 1.0
        return LossTerm(values_S.sum() * scale, pair.spans)

    def count_of(self, answers: AnswerSize) -> int:
        """The aligned spans."""
        return answers.spans


class _Known(NamedTuple):
    """What is known of the teacher's sorted vectors: their first `count_S1` entries and the rest.

    `rest_S` is the sum of all others, known to `resolution_S`; `sorted_SC` is 0 behind the count.
    """

    sorted_SC: Tensor
    count_S1: Tensor
    rest_S: Tensor
    resolution_S: Tensor


class _Merged(NamedTuple):
    """By span: its first row, and the log-probability of its later tokens (0 without any)."""

    first_S: Tensor
    later_S: Tensor


def _one_row_each(student: StudentView, signal: TeacherSignal) -> Unaligned:
    import torch

    assert not isinstance(signal, Unaligned)
    rows = student.labels_N.shape[0]
    if len(signal) != rows:
        raise UsageError(f"the teacher's signal has {len(signal)} rows, the student's view {rows}")
    spans_N = torch.arange(rows, device=student.labels_N.device)
    tokens = student.logits_NV.shape[-1]
    return Unaligned(signal, student.labels_N, spans_N, spans_N, rows, tokens)


def _merge(logp_of_tokens_N: Tensor, spans_N: Tensor, spans: int) -> _Merged:
    import torch

    is_first_N = torch.ones_like(spans_N, dtype=torch.bool)
    is_first_N[1:] = spans_N[1:] != spans_N[:-1]
    first_S = is_first_N.nonzero().squeeze(-1)
    assert first_S.shape[0] == spans, "every span has a row of either model"
    later_N = logp_of_tokens_N.masked_fill(is_first_N, 0)
    later_S = logp_of_tokens_N.new_zeros(spans).index_add(0, spans_N, later_N)
    return _Merged(first_S, later_S)


def _replaced(p_SC: Tensor, at_S1: Tensor, later_S: Tensor) -> Tensor:
    """Rows with the entry at `at_S1` replaced by that of the span, and "leaves it" behind."""
    import torch

    begun_S1, later_S1 = p_SC.gather(-1, at_S1), later_S.unsqueeze(-1)
    whole_S1, left_S1 = begun_S1 * later_S1.exp(), begun_S1 * -torch.expm1(later_S1)
    return torch.cat([p_SC.scatter(-1, at_S1, whole_S1), left_S1], -1)


def _dense(logits_NV: Tensor, tokens_N: Tensor, spans_N: Tensor, spans: int, t: float) -> Tensor:
    """The merged distribution of every span, [S, V + 1], from whole rows."""
    z_NV = logits_NV / t
    tokens_N1 = tokens_N.long().unsqueeze(-1)
    logp_N = z_NV.gather(-1, tokens_N1).squeeze(-1) - z_NV.logsumexp(-1)
    merged = _merge(logp_N.clamp(min=RULED_OUT), spans_N, spans)
    first_S = merged.first_S
    return _replaced(z_NV[first_S].softmax(-1), tokens_N1[first_S], merged.later_S)


def _student_side(student: StudentView, pair: Unaligned, temperature: float) -> Tensor:
    if student.labels_N.shape[0] != pair.student_spans_N.shape[0]:
        raise UsageError(
            f"spans of {pair.student_spans_N.shape[0]} rows for {student.labels_N.shape[0]} rows"
        )
    spans_N = pair.student_spans_N
    return _dense(student.logits_NV, student.labels_N, spans_N, pair.spans, temperature)


def _teacher_side(pair: Unaligned, temperature: float, like: Tensor) -> _Known:
    import torch

    tokens_M, spans_M = pair.answer_ids_M, pair.teacher_spans_M
    if isinstance(pair.signal, TopK):
        return _sparse(pair.signal, pair, temperature, like)
    logits_MV = pair.signal.logits_NV.detach().to(like.dtype)
    p_SC = _dense(logits_MV, tokens_M, spans_M, pair.spans, temperature)
    sorted_SC = p_SC.sort(-1, descending=True).values
    count_S1 = torch.full_like(sorted_SC[:, :1], sorted_SC.shape[-1])
    nothing_S = torch.zeros_like(sorted_SC[:, 0])
    return _Known(sorted_SC, count_S1, nothing_S, nothing_S)


def _sparse(signal: TopK, pair: Unaligned, temperature: float, like: Tensor) -> _Known:
    """Which entries are certain to be the largest, and the sum of the others; see the head."""
    import torch

    log_sums_M1 = stored_log_sums(signal, temperature).to(like.dtype)
    logp_MK = signal.logp_NK.detach().to(like.dtype) / temperature - log_sums_M1
    logp_MK = logp_MK.clamp(min=RULED_OUT)
    is_token_MK = signal.ids_NK == pair.answer_ids_M.unsqueeze(-1)
    is_lost_M = (~is_token_MK.any(-1)).to(like.dtype)
    merged = _merge((logp_MK * is_token_MK).sum(-1), pair.teacher_spans_M, pair.spans)
    ends_S1 = _merge(is_lost_M, pair.teacher_spans_M, pair.spans).later_S.unsqueeze(-1) == 0

    p_SK = logp_MK[merged.first_S].exp()
    is_begun_SK = is_token_MK[merged.first_S]
    begins_S1, at_S1 = is_begun_SK.to(torch.uint8).max(-1, keepdim=True)
    is_whole_S1 = begins_S1.bool() & ends_S1  # the span's two entries are known
    entries_SC = torch.where(
        is_whole_S1,
        _replaced(p_SK, at_S1, merged.later_S),
        torch.nn.functional.pad(p_SK.masked_fill(is_begun_SK, -1), (0, 1), value=-1),
    )
    # Nothing that was not kept, and neither part of a_0, is above this.
    bound_S1 = torch.where(
        begins_S1.bool() & ~ends_S1, p_SK.gather(-1, at_S1), p_SK.amin(-1, keepdim=True)
    )
    keeps_all = p_SK.shape[-1] == pair.teacher_tokens
    if keeps_all:
        bound_S1 = torch.zeros_like(bound_S1)
    is_certain_SC = entries_SC >= bound_S1
    known_SC = entries_SC.masked_fill(~is_certain_SC, 0)
    rest_S = (1 - known_SC.sum(-1)).clamp(min=0)
    if keeps_all:
        rest_S = torch.zeros_like(rest_S)
    epsilon = torch.finfo(like.dtype).eps
    resolution_S = RESOLUTION * epsilon * (1 + log_sums_M1[merged.first_S, 0].abs())
    sorted_SC = known_SC.sort(-1, descending=True).values
    return _Known(sorted_SC, is_certain_SC.sum(-1, keepdim=True), rest_S, resolution_S)


def _distances(known: _Known, student_SV: Tensor) -> Tensor:
    """Sum of |p_(i) - q_(i)| of every span; what is equal but for rounding counts as equal.

    The slope jumps between -1 and 1 where they are equal: rounding alone would make a gradient.
    """
    import torch

    entries = known.sorted_SC.shape[-1]
    compared = min(entries, student_SV.shape[-1])
    if compared == student_SV.shape[-1]:  # a sort is faster than the largest of all
        largest_SC = student_SV.sort(-1, descending=True).values
        others_S = torch.zeros_like(known.rest_S)
    else:
        largest_SC, at_SC = student_SV.topk(compared)
        others_S = student_SV.scatter(-1, at_SC, 0).sum(-1)
    largest_SC = torch.nn.functional.pad(largest_SC, (0, entries - compared))
    is_known_SC = torch.arange(entries, device=student_SV.device) < known.count_S1
    p_SC = known.sorted_SC
    gaps_SC = p_SC - largest_SC
    rounding_SC = torch.finfo(p_SC.dtype).eps * RESOLUTION * (p_SC - p_SC.xlogy(p_SC))
    same_SC = gaps_SC.detach().abs() <= rounding_SC
    rest_S = known.rest_S - largest_SC.masked_fill(is_known_SC, 0).sum(-1) - others_S
    rest_S = rest_S.masked_fill(rest_S.detach().abs() <= known.resolution_S, 0)
    return gaps_SC.masked_fill(same_SC | ~is_known_SC, 0).abs().sum(-1) + rest_S.abs()
