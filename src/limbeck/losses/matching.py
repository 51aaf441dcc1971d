"""Which of the teacher's layers a layer of the student learns from: VLsI's search and its parts.

For the student's target layers i = 0 .. t_s - 1 in turn, with k_j the divergence from the teacher's
target layer j, one j is chosen from a window J:

    J = range(lo, hi)     lo = 0, or with `order` one above the last choice
                          hi = t_l, or with `search_range` t_l - t_s + i + 1: room for later layers
    random                any of J, all equally likely
    uniform               the layer at the same relative depth, whatever k says
    bottom1, bottom3      the smallest k of J; one of the three smallest, equally likely
    multinomial           drawn from softmax(-k / T) over J

T is 1, or with `adaptive_temperature` follows r = max k - min k over J, by either reading of the
paper: "inverse_range" T = scale / (r + 1e-6), "range" T = scale * (r + 1e-6).

Source: Lee et al. 2024, "VLsI: Verbalized Layers-to-Interactions", arXiv 2412.01822, section 3 and
its ablation table; the printed pseudo-code indexes off by the window's start, and this does not.
A patent application (US 2026/0141690 A1) covers the method.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Generator, Tensor

Matching = Literal["random", "uniform", "bottom1", "bottom3", "multinomial"]
TemperatureRule = Literal["inverse_range", "range"]
EPSILON = 1e-6


def window(
    layer: int,
    lowest: int,
    student_layers: int,
    teacher_layers: int,
    *,
    search_range: bool,
    order: bool,
) -> range:
    """The teacher's target layers among which the student's `layer` chooses.

    Args:
        layer: number among the student's targets.
        lowest: one above the choice of the layer before.
        student_layers: how many targets the student has.
        teacher_layers: how many the teacher has, not fewer.
        search_range: leave room for the later layers.
        order: choices have to increase; only with `search_range`, or room may run out.
    """
    highest = teacher_layers - student_layers + layer + 1 if search_range else teacher_layers
    return range(lowest if order else 0, highest)


def temperature_of(k_J: Tensor, rule: TemperatureRule, scale: float) -> Tensor:
    """The adaptive temperature of a window's divergences."""
    spread = k_J.max() - k_J.min() + EPSILON
    return scale / spread if rule == "inverse_range" else scale * spread


def choose(
    k_J: Tensor,
    layer: int,
    student_layers: int,
    teacher_layers: int,
    matching: Matching,
    *,
    first: int,
    temperature: Tensor | float,
    generator: Generator | None = None,
) -> int:
    """The chosen target layer of the teacher.

    Args:
        k_J: divergences over the window, on the CPU.
        layer: number among the student's targets.
        student_layers: how many targets the student has.
        teacher_layers: how many the teacher has.
        matching: the rule.
        first: of the window.
        temperature: of "multinomial".
        generator: draws; None takes the global random state.
    """
    import torch

    if matching == "uniform":
        even = round((layer + 1) * teacher_layers / student_layers) - 1
        return min(max(even, first), first + len(k_J) - 1)
    if matching == "bottom1":
        return first + int(k_J.argmin())
    if matching == "bottom3":
        weights = torch.zeros_like(k_J)
        weights[k_J.argsort()[:3]] = 1.0
    elif matching == "random":
        weights = torch.ones_like(k_J)
    else:
        weights = (-k_J / temperature).softmax(0)
    return first + int(torch.multinomial(weights, 1, generator=generator))
