"""What do head and losses cost, against the bare matrix products and against other systems' ways?

    python benchmarks/loss.py [--vocabulary 151936] [--rows 64 256] [--length 1024] [--rounds 3]

One sample of `length` tokens of which `rows` are supervised, hidden widths 1536 (student) and 3584
(teacher), bf16. Interleaves all of them in one process (A B C ... A B C ...), and prints seconds,
the ratio to the three bare matrix products on the supervised rows (h W^T, G W, G^T h) with its
spread, and the peak of extra memory. Writes work/benchmarks/loss.json.

The other systems' ways are written here from their definitions, and named after who ships them:

    naive         logits of both models in float32, the divergence on every position, then masked
    trl           log-softmax of both models in float32 (as under autocast) and their divergence on
                  every position, then those that are supervised are taken
    liger         head, teacher's head and loss in chunks of 1024 positions, gradient by autograd
                  inside a chunk; `rows`: the same given nothing but the supervised rows
    distillkit    64 kept tokens a position, to which the teacher is renormalised, and the model's
                  own cross-entropy in float32, as its trainer computes it; on every position

The divergence is the forward KL, which costs trl and liger less than the JSD that they ship as the
default (`jsd`, beta 0.5). All are given the teacher's logits or kept tokens for free, but for
liger's way, which takes the teacher's hidden states; `fused + teacher's head` compares with that.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.divergence import Divergence
from limbeck.losses.fused import fused_sums
from limbeck.records import Dense, LinearHead, TeacherSignal
from limbeck.signals.top_k import from_logits

STUDENT_WIDTH, TEACHER_WIDTH, KEPT, LIGER_CHUNK = 1536, 3584, 64, 1024
MIB = 2**20


class Case:
    """One sample's tensors, and every way to get the gradients of its loss."""

    def __init__(self, length: int, rows: int, vocabulary: int, device: str) -> None:
        torch.manual_seed(0)
        self.device, self.rows = device, rows

        def random(*shape: int, scale: float = 1.0) -> Tensor:
            return torch.randn(shape, device=device, dtype=torch.bfloat16).mul_(scale)

        self.weight_VH = random(vocabulary, STUDENT_WIDTH, scale=0.05).requires_grad_()
        self.teacher_weight_VH = random(vocabulary, TEACHER_WIDTH, scale=0.03)
        self.hidden_LH = random(length, STUDENT_WIDTH).requires_grad_()
        self.teacher_hidden_LH = random(length, TEACHER_WIDTH)
        self.scored_L = torch.zeros(length, dtype=torch.bool, device=device)
        self.scored_L[length - rows :] = True
        self.labels_N = torch.randint(0, vocabulary, (rows,), device=device)
        self.teacher_LV = self.teacher_hidden_LH @ self.teacher_weight_VH.T
        self.ids_LK = torch.empty(length, KEPT, dtype=torch.long, device=device)
        self.kept_LK = torch.empty(length, KEPT, device=device)
        for at in range(0, length, 64):
            piece = self.teacher_LV[at : at + 64].float().log_softmax(-1).topk(KEPT, dim=-1)
            self.kept_LK[at : at + 64], self.ids_LK[at : at + 64] = piece
        self.teacher_NV = self.teacher_LV[self.scored_L]
        self.top_k = from_logits(self.teacher_NV.float(), KEPT, (1.0, 2.0))

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
        self, losses: list[Any], teacher: TeacherSignal | None = None, *, frozen: bool = False
    ) -> None:
        if teacher is None:
            teacher_NH = self.teacher_hidden_LH[self.scored_L]
            teacher = Dense(teacher_NH @ self.teacher_weight_VH.T)
        weight = self.weight_VH.detach() if frozen else self.weight_VH
        terms = ((self.hidden_LH[self.scored_L], weight),)
        head = LinearHead(terms, None, 0, weight.shape[0])
        weights = [1 / self.rows] * len(losses)
        fused_sums(head, self.labels_N, losses, weights, teacher)[0].backward()

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

    def ways(self, whole_sequence: bool) -> dict[str, Callable[[], None]]:
        forward, dense = [Divergence()], Dense(self.teacher_NV)
        same = [CrossEntropy(weight=0.5), Divergence(weight=0.5)]
        both = [CrossEntropy(weight=0.3), Divergence(temperature=2.0, weight=0.7)]
        found: dict[str, Callable[[], None]] = {
            "bare": self.bare,
            "bare, frozen head": lambda: self.bare(frozen=True),
            "fused, dense": lambda: self.fused(forward, dense),
            "fused, top-64 + tail": lambda: self.fused(forward, self.top_k),
            "fused, dense, T=2, with cross-entropy": lambda: self.fused(both, dense),
            "fused, top-64, T=2, with cross-entropy": lambda: self.fused(both, self.top_k),
            "fused, top-64, with cross-entropy": lambda: self.fused(same, self.top_k),
            "fused, dense, jsd": lambda: self.fused([Divergence(direction="jsd")], dense),
            "fused, dense, frozen head": lambda: self.fused(forward, dense, frozen=True),
            "fused + teacher's head": lambda: self.fused(forward),
            "fused + teacher's head, jsd": lambda: self.fused([Divergence(direction="jsd")]),
            "fused + teacher's head, frozen head": lambda: self.fused(forward, frozen=True),
            "liger, rows": lambda: self.liger(rows_only=True),
        }
        if whole_sequence:
            found |= {
                "naive": self.naive,
                "trl": self.trl,
                "trl, jsd": lambda: self.trl(jsd=True),
                "liger": self.liger,
                "liger, jsd": lambda: self.liger(jsd=True),
                "distillkit": self.distillkit,
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


def seconds(case: Case, way: Callable[[], None]) -> float:
    _synchronise(case.device)
    started = time.perf_counter()
    way()
    _synchronise(case.device)
    spent = time.perf_counter() - started
    case.clear()
    return spent


def peak_extra_mib(case: Case, way: Callable[[], None]) -> float | None:
    """Peak above what was held before: the allocator's on CUDA, the process's on Linux."""
    gc.collect()
    if case.device.startswith("cuda"):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        way()
        peak = torch.cuda.max_memory_allocated() - before
    elif sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
        before = _status_bytes("VmRSS")
        way()
        peak = _status_bytes("VmHWM") - before
    else:
        return None
    case.clear()
    return peak / MIB


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device == "mps":
        torch.mps.synchronize()


def measure(case: Case, rounds: int, whole_sequence: bool) -> dict[str, dict[str, Any]]:
    ways = case.ways(whole_sequence)
    extra = {name: peak_extra_mib(case, way) for name, way in ways.items()}  # also warms up
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        print(f"  round {number + 1} of {rounds}", file=sys.stderr)
        for name, way in ways.items():
            taken[name].append(seconds(case, way))
    found: dict[str, dict[str, Any]] = {}
    for name, times in taken.items():
        base = taken["bare, frozen head" if name.endswith("frozen head") else "bare"]
        ratios = [own / bare for own, bare in zip(times, base, strict=True)]
        found[name] = {
            "seconds": median(times),
            "times_bare": median(ratios),
            "times_bare_low": min(ratios),
            "times_bare_high": max(ratios),
            "peak_extra_mib": extra[name],
            "all_seconds": times,
        }
    return found


def show(rows: int, found: dict[str, dict[str, Any]]) -> None:
    print(f"\n{rows} supervised rows\n")
    print(f"{'':42}{'seconds':>9}{'x bare':>9}{'(low to high)':>18}{'extra MiB':>11}")
    for name, one in found.items():
        spread = f"({one['times_bare_low']:.2f} to {one['times_bare_high']:.2f})"
        extra = "" if one["peak_extra_mib"] is None else f"{one['peak_extra_mib']:.0f}"
        print(f"{name:42}{one['seconds']:9.3f}{one['times_bare']:9.2f}{spread:>18}{extra:>11}")


def goals(
    measured: dict[int, dict[str, dict[str, Any]]], weight_mib: float
) -> list[dict[str, Any]]:
    """The figures to reach, with what was reached."""
    made: list[dict[str, Any]] = []

    def goal(what: str, reached: float, target: float, at_least: bool) -> None:
        met = reached >= target if at_least else reached <= target
        made.append({"goal": what, "reached": reached, "target": target, "met": met})

    def faster(found: dict[str, Any], ours: str, theirs: str) -> float:
        pairs = zip(found[theirs]["all_seconds"], found[ours]["all_seconds"], strict=True)
        return median([b / a for b, a in pairs])

    for rows, found in measured.items():
        for ours in ("fused, dense", "fused, top-64 + tail"):
            goal(f"{ours}: x bare, {rows} rows", found[ours]["times_bare"], 1.15, False)
        frozen = "fused + teacher's head, frozen head"
        reached = faster(found, frozen, "liger, rows")
        goal(f"frozen head: x faster than liger on {rows} rows", reached, 2.2, True)
        if "trl" not in found:
            continue
        for kind in ("", ", jsd"):
            ours, theirs = "fused, dense" + kind, "trl" + kind
            goal(f"x faster than {theirs}", faster(found, ours, theirs), 20, True)
            ours, theirs = "fused + teacher's head" + kind, "liger" + kind
            goal(f"x faster than {theirs}", faster(found, ours, theirs), 20, True)
        reached = faster(found, "fused, top-64, with cross-entropy", "distillkit")
        goal("x faster than distillkit", reached, 30, True)
        extra = [found[name]["peak_extra_mib"] for name in ("fused, dense", "trl")]
        if None not in extra:
            ours, theirs = (value - weight_mib for value in extra)
            goal("extra memory above dW, share of trl's", max(ours, 0) / theirs, 0.1, False)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--rows", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=Path("work/benchmarks/loss.json"))
    arguments = parser.parse_args()
    measured: dict[int, dict[str, dict[str, Any]]] = {}
    for number, rows in enumerate(arguments.rows):
        case = Case(arguments.length, rows, arguments.vocabulary, arguments.device)
        # What other systems do on every position does not depend on the number of rows.
        measured[rows] = measure(case, arguments.rounds, whole_sequence=number == 0)
        show(rows, measured[rows])
        del case
    weight_mib = arguments.vocabulary * STUDENT_WIDTH * 2 / MIB
    reached = goals(measured, weight_mib)
    print(f"\nThe gradient of the head's weights alone is {weight_mib:.0f} MiB.\n")
    for one in reached:
        word = "met" if one["met"] else "MISSED"
        print(f"{word:7} {one['goal']}: {one['reached']:.2f} (goal {one['target']:g})")
    result = {
        "vocabulary": arguments.vocabulary,
        "length": arguments.length,
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "weight_gradient_mib": weight_mib,
        "rows": {str(rows): found for rows, found in measured.items()},
        "goals": reached,
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
