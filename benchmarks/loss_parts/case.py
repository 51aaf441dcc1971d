"""One sample's tensors, and every way to get the gradients of its loss.

The values are synthetic and shaped like a language model's, since the filter of the weight gradient
depends on them: tokens have a Zipf-like bias, and each position leans towards twelve tokens by an
amount of its own, so that positions run from certain to undecided; student and teacher lean towards
the same tokens, not equally. `Case.facts` says what came out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.divergence import Divergence
from limbeck.losses.fused import fused_sums
from limbeck.losses.fused.memory import Buffers
from limbeck.records import Dense, LinearHead, TeacherSignal
from limbeck.signals.top_k import from_logits

STUDENT_WIDTH, TEACHER_WIDTH, KEPT, LIGER_CHUNK = 1536, 3584, 64, 1024
TOLERANCE = 0.003
FILTERED = ", filtered dW"
"""Ends the name of every way with the filter."""

LIKELY, LEANING, NOISE, APART = 12, (16.0, 3.0), 1.5, 0.7


class Case:
    """One sample's tensors, and every way to get the gradients of its loss."""

    def __init__(self, length: int, rows: int, vocabulary: int, device: str) -> None:
        torch.manual_seed(0)
        self.device, self.rows = device, rows
        self.buffers = Buffers()  # as in training
        bias_V = -0.5 * (torch.randperm(vocabulary, device=device) + 1).log()
        likely_LK = torch.randint(0, vocabulary, (length, LIKELY), device=device)
        mean, spread = LEANING
        leaning_L1 = mean + spread * torch.randn(length, 1, device=device)
        by_rank_K = 0.8 * torch.arange(LIKELY, device=device)
        leaning_LK = (leaning_L1 - by_rank_K).clamp(min=0)

        def model(width: int, leaning_LK: Tensor) -> tuple[Tensor, Tensor]:
            weight_VH = torch.randn(vocabulary, width, device=device, dtype=torch.bfloat16)
            weight_VH *= width**-0.5
            weight_VH[:, -1] = bias_V
            hidden_LH = torch.randn(length, width, device=device) * NOISE
            for rank in range(LIKELY):
                towards = weight_VH[likely_LK[:, rank]].float()
                hidden_LH += towards * leaning_LK[:, rank : rank + 1]
            hidden_LH[:, -1] = 1
            return weight_VH, hidden_LH.bfloat16()

        apart_LK = APART * torch.randn(length, LIKELY, device=device)
        weight_VH, hidden_LH = model(STUDENT_WIDTH, leaning_LK + apart_LK)
        self.weight_VH, self.hidden_LH = weight_VH.requires_grad_(), hidden_LH.requires_grad_()
        self.teacher_weight_VH, self.teacher_hidden_LH = model(TEACHER_WIDTH, leaning_LK)
        self.scored_L = torch.zeros(length, dtype=torch.bool, device=device)
        self.scored_L[length - rows :] = True
        self.teacher_LV = self.teacher_hidden_LH @ self.teacher_weight_VH.T
        self.ids_LK = torch.empty(length, KEPT, dtype=torch.long, device=device)
        self.kept_LK = torch.empty(length, KEPT, device=device)
        for at in range(0, length, 64):
            piece = self.teacher_LV[at : at + 64].float().log_softmax(-1).topk(KEPT, dim=-1)
            self.kept_LK[at : at + 64], self.ids_LK[at : at + 64] = piece
        self.teacher_NV = self.teacher_LV[self.scored_L]
        self.labels_N = self.teacher_NV.argmax(-1)
        self.top_k = from_logits(self.teacher_NV.float(), KEPT, (1.0, 2.0))

    def facts(self) -> dict[str, float]:
        """What the distributions are like, means over the supervised rows."""
        with torch.no_grad():
            logits_NV = self.hidden_LH[self.scored_L] @ self.weight_VH.T
            log_q, log_p = (z.float().log_softmax(-1) for z in (logits_NV, self.teacher_NV))
            return {
                "teacher_entropy_nats": -(log_p.exp() * log_p).sum(-1).mean().item(),
                "student_entropy_nats": -(log_q.exp() * log_q).sum(-1).mean().item(),
                "kl_nats": (log_p.exp() * (log_p - log_q)).sum(-1).mean().item(),
            }

    def filter_facts(self) -> dict[str, dict[str, float]]:
        """For each loss that is filtered: error of the weight gradient, and rows that are kept."""
        found: dict[str, dict[str, float]] = {}
        for name, way in self.filtered().items():
            way(None)
            exact_VH = self.weight_VH.grad
            self.clear()
            way(TOLERANCE)
            filtered_VH = self.weight_VH.grad
            self.clear()
            assert exact_VH is not None
            assert filtered_VH is not None
            error = (exact_VH - filtered_VH).float().norm() / exact_VH.float().norm()
            kept = filtered_VH.any(-1).float().mean()
            found[name] = {"relative_error": error.item(), "kept_share": kept.item()}
        return found

    def clear(self) -> None:
        self.weight_VH.grad = self.hidden_LH.grad = None

    # -- what cannot be done without ----------------------------------------------------------

    def bare(self, frozen: bool = False) -> None:
        with torch.no_grad():
            hidden_NH = self.hidden_LH[self.scored_L]
            logits_NV = hidden_NH @ self.weight_VH.T
            of_hidden = logits_NV @ self.weight_VH
            of_weight = None if frozen else logits_NV.T @ hidden_NH
        del of_hidden, of_weight

    # -- ours ---------------------------------------------------------------------------------

    def fused(
        self,
        losses: list[Any],
        teacher: TeacherSignal | None = None,
        *,
        frozen: bool = False,
        tolerance: float | None = None,
    ) -> None:
        if teacher is None:
            teacher_NH = self.teacher_hidden_LH[self.scored_L]
            teacher = Dense(teacher_NH @ self.teacher_weight_VH.T)
        weight = self.weight_VH.detach() if frozen else self.weight_VH
        terms = ((self.hidden_LH[self.scored_L], weight),)
        head = LinearHead(terms, None, 0, weight.shape[0])
        weights = [1 / self.rows] * len(losses)
        options: dict[str, Any] = {"tolerance": tolerance, "buffers": self.buffers}
        fused_sums(head, self.labels_N, losses, weights, teacher, **options)[0].backward()

    def filtered(self) -> dict[str, Callable[[float | None], None]]:
        """Ways that take a tolerance."""
        forward, jsd = [Divergence()], [Divergence(direction="jsd")]
        same = [CrossEntropy(weight=0.5), Divergence(weight=0.5)]
        return {
            "fused, dense": lambda tolerance: self.fused(
                forward, Dense(self.teacher_NV), tolerance=tolerance
            ),
            "fused, top-64, with cross-entropy": lambda tolerance: self.fused(
                same, self.top_k, tolerance=tolerance
            ),
            "fused + teacher's head": lambda tolerance: self.fused(forward, tolerance=tolerance),
            "fused + teacher's head, jsd": lambda tolerance: self.fused(jsd, tolerance=tolerance),
        }

    def then_scaled(self, way: Callable[[float | None], None], tolerance: float | None) -> None:
        """With what clipping does: it reads and writes all of the weight gradient."""
        way(tolerance)
        assert self.weight_VH.grad is not None
        self.weight_VH.grad.mul_(0.5)

    # -- others' ------------------------------------------------------------------------------

    def naive(self) -> None:
        log_q = (self.hidden_LH @ self.weight_VH.T).float().log_softmax(-1)
        log_p = self.teacher_LV.float().log_softmax(-1)
        values_L = (log_p.exp() * (log_p - log_q)).sum(-1)
        ((values_L * self.scored_L).sum() / self.rows).backward()

    def trl(self, *, jsd: bool = False) -> None:
        log_q = torch.log_softmax(self.hidden_LH @ self.weight_VH.T, -1, dtype=torch.float32)
        log_p = torch.log_softmax(self.teacher_LV, -1, dtype=torch.float32)
        terms_LV = divergence_terms(log_p, log_q, jsd)
        (terms_LV[self.scored_L].sum() / self.rows).backward()

    def liger(self, *, jsd: bool = False, rows_only: bool = False) -> None:
        hidden, teacher = self.hidden_LH.detach(), self.teacher_hidden_LH
        if rows_only:
            hidden, teacher = hidden[self.scored_L], teacher[self.scored_L]
        of_weight = torch.zeros_like(self.weight_VH)
        of_hidden = torch.zeros_like(hidden)
        for at in range(0, len(hidden), LIGER_CHUNK):
            chunk = slice(at, at + LIGER_CHUNK)
            own = hidden[chunk].requires_grad_()
            log_q = (own @ self.weight_VH.T).float().log_softmax(-1)
            with torch.no_grad():
                log_p = (teacher[chunk] @ self.teacher_weight_VH.T).float().log_softmax(-1)
            values = divergence_terms(log_p, log_q, jsd).sum(-1)
            if not rows_only:
                values = values.masked_fill(~self.scored_L[chunk], 0)
            found = torch.autograd.grad(values.sum() / self.rows, [own, self.weight_VH])
            of_hidden[chunk] = found[0]
            of_weight += found[1]
        self.weight_VH.grad = of_weight
        if not rows_only:
            self.hidden_LH.grad = of_hidden

    def distillkit(self) -> None:
        logits_LV = self.hidden_LH @ self.weight_VH.T
        labels_L = torch.full_like(self.ids_LK[:, 0], -100)
        labels_L[self.scored_L] = self.labels_N
        hard = torch.nn.functional.cross_entropy(logits_LV.float(), labels_L)
        log_sum_L1 = logits_LV.float().logsumexp(-1, keepdim=True)
        log_q_LK = logits_LV.gather(-1, self.ids_LK) - log_sum_L1
        log_p_LK = self.kept_LK.log_softmax(-1)
        values_L = (log_p_LK.exp() * (log_p_LK - log_q_LK)).sum(-1)
        (0.5 * hard + 0.5 * (values_L * self.scored_L).sum() / self.rows).backward()

    def ways(self) -> dict[str, Callable[[], None]]:
        """What costs about as much as the bare products."""
        forward, dense = [Divergence()], Dense(self.teacher_NV)
        both = [CrossEntropy(weight=0.3), Divergence(temperature=2.0, weight=0.7)]
        filtered = self.filtered()
        plain = filtered["fused, dense"]
        found: dict[str, Callable[[], None]] = {
            "bare": self.bare,
            "bare, frozen head": lambda: self.bare(frozen=True),
        }
        for name, way in filtered.items():
            found[name] = lambda way=way: way(None)
            found[name + FILTERED] = lambda way=way: way(TOLERANCE)
        found |= {
            "fused, top-64 + tail": lambda: self.fused(forward, self.top_k),
            "fused, dense, T=2, with cross-entropy": lambda: self.fused(both, dense),
            "fused, top-64, T=2, with cross-entropy": lambda: self.fused(both, self.top_k),
            "fused, dense, frozen head": lambda: self.fused(forward, dense, frozen=True),
            "fused + teacher's head, frozen head": lambda: self.fused(forward, frozen=True),
            "fused, dense, dW scaled after": lambda: self.then_scaled(plain, None),
            f"fused, dense, dW scaled after{FILTERED}": lambda: self.then_scaled(plain, TOLERANCE),
        }
        for direction in ("jsd", "skew_forward", "skew_reverse", "total_variation"):
            one = [Divergence(direction=direction)]
            found[f"fused, dense, {direction}"] = lambda one=one: self.fused(one, dense)
        return found | {"liger, rows": lambda: self.liger(rows_only=True)}

    def slow_ways(self, most: bool = True) -> dict[str, Callable[[], None]]:
        """What other systems do on every position; that does not depend on the number of rows."""
        found: dict[str, Callable[[], None]] = {
            "trl": self.trl,
            "liger": self.liger,
            "distillkit": self.distillkit,
        }
        if most:
            found |= {
                "naive": self.naive,
                "trl, jsd": lambda: self.trl(jsd=True),
                "liger, jsd": lambda: self.liger(jsd=True),
            }
        return found


def divergence_terms(log_p: Tensor, log_q: Tensor, jsd: bool) -> Tensor:
    """Every term of the forward KL, or of the JSD with beta 0.5."""

    def terms_of(log_a: Tensor, log_b: Tensor) -> Tensor:
        return torch.nn.functional.kl_div(log_b, log_a, reduction="none", log_target=True)

    if not jsd:
        return terms_of(log_p, log_q)
    log_m = torch.logsumexp(torch.stack([log_q, log_p]) - math.log(2), dim=0)
    return 0.5 * terms_of(log_p, log_m) + 0.5 * terms_of(log_q, log_m)
