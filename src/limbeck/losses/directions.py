"""The divergences of two distributions, as values and as slopes.

Each is a sum over tokens, D = sum_v f(p_v, q_v), of terms that are >= 0 one by one: to a KL
divergence sum a log(a / b) the terms -a + b are added, which sum to zero. At p = q value and slope
are then zero term by term instead of after cancellation over the vocabulary.

`value` is what autograd differentiates. `value_and_slope` has the slope in closed form, for the
fused path: with g_v = df / d(log q_v), and q = softmax(z / T),

    dD / dz_v = (g_v - q_v sum_u g_u) / T

    forward          g = q - p
    reverse          g = q log(q / p)
    jsd              g = (1 - beta) q log(q / m)
    skew_forward     g = (1 - skew) q (1 - p / m)
    skew_reverse     g = q log(q / m) + skew q (1 - q / m)
    total_variation  g = 1/2 q sign(q - p)

A test holds the two together. The formulas of D are at the head of `limbeck.losses.functional`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Direction = Literal["forward", "reverse", "jsd", "skew_forward", "skew_reverse", "total_variation"]

RESOLUTION = 8
"""Steps of floating-point rounding within which two masses near 1 are the same."""


def value(log_p: Tensor, log_q: Tensor, direction: Direction, beta: float, skew: float) -> Tensor:
    """The divergence of every row: [..., V] -> [...]."""
    if direction == "forward":
        return _kl(log_p, log_q)
    if direction == "reverse":
        return _kl(log_q, log_p)
    if direction == "jsd":
        log_m = _log_mixture(log_p, log_q, 1 - beta)
        return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)
    if direction == "skew_forward":
        return _kl(log_p, _log_mixture(log_p, log_q, 1 - skew))
    if direction == "skew_reverse":
        return _kl(log_q, _log_mixture(log_p, log_q, skew))
    return _total_variation(log_p, log_q)


def value_and_slope(
    p: Tensor, q: Tensor, log_ratio: Tensor, direction: Direction, beta: float, skew: float
) -> tuple[Tensor, Tensor]:
    """The divergence of every row [N], and its slope df / d(log q) at every token [N, V].

    Args:
        p: the teacher's probabilities [N, V].
        q: the student's.
        log_ratio: log(p / q), from logits, since p and q may have rounded to 0; overwritten.
        direction: which divergence.
        beta: see `limbeck.losses.functional.divergence`.
        skew: likewise.
    """
    if direction == "forward":
        slope = q - p
        return log_ratio.mul_(p).sum(-1) + slope.sum(-1), slope
    if direction == "reverse":
        slope = log_ratio.mul_(q).neg_()
        return slope.sum(-1) - (q - p).sum(-1), slope
    if direction == "total_variation":
        tiny = _finfo(p).tiny
        log_p = p.clamp(min=tiny).log_()
        same = log_ratio.abs_() <= RESOLUTION * _finfo(p).eps * (1 + log_p.abs_())
        difference = (q - p).masked_fill_(same, 0)
        return 0.5 * difference.abs().sum(-1), difference.sign_().mul_(q).mul_(0.5)
    share = {"jsd": 1 - beta, "skew_forward": 1 - skew, "skew_reverse": skew}[direction]
    log_m_over_p, log_q_over_m = _around_mixture(log_ratio.neg_(), share)
    m = p.lerp(q, share)  # exactly p where q = p
    if direction == "jsd":
        of_p = (p * log_m_over_p).neg_() - p + m
        of_q = q * log_q_over_m
        values_N = beta * of_p.sum(-1) + (1 - beta) * (of_q - q + m).sum(-1)
        return values_N, of_q.mul_(1 - beta)
    if direction == "skew_forward":
        values_N = ((p * log_m_over_p).neg_() - p + m).sum(-1)
        return values_N, (-log_m_over_p).exp_().neg_().add_(1).mul_(q).mul_(1 - skew)
    of_q = q * log_q_over_m
    values_N = (of_q - q + m).sum(-1)
    return values_N, of_q.add_(log_q_over_m.exp_().neg_().add_(1).mul_(q), alpha=skew)


def _kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a || b) as sum of a log(a / b) - a + b."""
    a, b = log_a.exp(), log_b.exp()
    return (a * (log_a - log_b) - a + b).sum(-1)


def _total_variation(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Half the summed |p - q|; equal but for rounding counts as equal.

    Its slope jumps between -1 and 1 at p = q, so that rounding alone would make a gradient.
    """
    rounding = RESOLUTION * _finfo(log_q).eps * (1 + log_p.abs())
    same = (log_p - log_q).abs() <= rounding
    return 0.5 * (log_p.exp() - log_q.exp()).masked_fill(same, 0).abs().sum(-1)


def _log_mixture(log_p: Tensor, log_q: Tensor, share: float) -> Tensor:
    """log((1 - share) p + share q), exactly log p where q = p."""
    return log_p + _log_one_plus(log_q - log_p, share)


def _log_one_plus(gap: Tensor, share: float) -> Tensor:
    """log((1 - share) + share exp(gap)), exactly 0 where the gap is."""
    import torch

    # Each branch takes the larger of 1 and exp(gap) out, so that the exponential stays in (0, 1].
    above = gap + torch.log1p((1 - share) * torch.expm1(-gap.clamp(min=0)))
    below = torch.log1p(share * torch.expm1(gap.clamp(max=0)))
    return torch.where(gap > 0, above, below)


def _around_mixture(gap: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """log(m / p) and log(q / m) for m = (1 - share) p + share q, from gap = log(q / p).

    No difference of large numbers, one exponential instead of two, but no derivative at gap = 0.
    """
    larger_share = (gap > 0).to(gap.dtype).mul_(1 - 2 * share).add_(share)
    # log of m / max(p, q).
    log_rest = gap.abs().neg_().expm1_().mul_(larger_share).log1p_()
    return gap.clamp(min=0).add_(log_rest), gap.clamp_(max=0).sub_(log_rest)


def _finfo(tensor: Tensor) -> torch.finfo:
    import torch

    return torch.finfo(tensor.dtype)
