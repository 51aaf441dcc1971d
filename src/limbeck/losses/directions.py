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

from collections.abc import Callable
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
    p: Tensor,
    q: Tensor,
    log_ratio: Callable[[], Tensor],
    direction: Direction,
    beta: float,
    skew: float,
) -> tuple[Tensor, Tensor]:
    """The divergence of every row [N], and its slope df / d(log q) at every token [N, V].

    On a processor a pass of `log1p`, `expm1` or `where` costs as much as ten of any other kind
    here, so there are none. Rounding of what is written instead is that of p and q themselves.

    Args:
        p: the teacher's probabilities [N, V]; a token may have rounded to 0.
        q: the student's.
        log_ratio: makes log(p / q) from logits, which know it where p or q is 0; overwritten.
        direction: which divergence.
        beta: see `limbeck.losses.functional.divergence`.
        skew: likewise.
    """
    if direction == "forward":
        slope = q - p
        return log_ratio().mul_(p).sum(-1) + slope.sum(-1), slope
    if direction == "reverse":
        slope = log_ratio().mul_(q).neg_()
        return slope.sum(-1) - (q - p).sum(-1), slope
    if direction == "total_variation":
        return _total_variation_and_slope(p, q)
    share = {"jsd": 1 - beta, "skew_forward": 1 - skew, "skew_reverse": skew}[direction]
    m = p.lerp(q, share)  # exactly p where q = p
    if direction == "jsd":  # the terms -a + b of its two KL divergences cancel token by token
        of_p = _ratio(p, m, 1 - share).log_().mul_(p)
        of_q = _ratio(q, m, share).log_().mul_(q)
        return beta * of_p.sum(-1) + (1 - beta) * of_q.sum(-1), of_q.mul_(1 - beta)
    apart_N = q.sum(-1) - p.sum(-1)
    if direction == "skew_forward":
        ratio = _ratio(p, m, 1 - share)
        values_N = ratio.log().mul_(p).sum(-1) + share * apart_N
        return values_N, ratio.neg_().add_(1).mul_(q).mul_(share)
    ratio = _ratio(q, m, share)
    of_q = ratio.log().mul_(q)
    values_N = of_q.sum(-1) - (1 - share) * apart_N
    return values_N, of_q.add_(ratio.neg_().add_(1).mul_(q), alpha=skew)


def _ratio(of: Tensor, m: Tensor, share: float) -> Tensor:
    """of / m inside (0, 1 / share], exactly 1 where they are equal, be they 0."""
    tiny = _finfo(of).tiny
    return (of + tiny).div_(m + tiny).clamp_(max=1 / share)


def _total_variation_and_slope(p: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    import torch

    # |log(p / q)| <= rounding, as in `_total_variation`, times p.
    log_p = (p + _finfo(p).tiny).log_()
    rounding = torch.addcmul(p, p, log_p, value=-1).mul_(RESOLUTION * _finfo(p).eps)
    difference = q - p
    differs = torch.gt(difference.abs(), rounding, out=rounding)  # as 0 and 1: no mask of booleans
    slope = difference.sign().mul_(differs).mul_(q).mul_(0.5)
    return 0.5 * difference.mul_(differs).abs_().sum(-1), slope


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


def _finfo(tensor: Tensor) -> torch.finfo:
    import torch

    return torch.finfo(tensor.dtype)
