"""Optimisers and the learning-rate schedule.

`muon`: Muon (Jordan et al. 2024; orthogonalised momentum) on the 2-D weights of hidden layers,
AdamW on embeddings, the head, norms, biases and convolutions.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from limbeck.recipe.sections import Training

_FUSED_DEVICES = ("cpu", "cuda", "mps")
"""Where one kernel updates a weight with both of its moments."""


def make_optimizers(
    model: nn.Module, training: Training, *, exclude_from_muon: Iterable[nn.Parameter] = ()
) -> list[torch.optim.Optimizer]:
    """The optimisers over all trainable parameters, each of which is in exactly one of them."""
    trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    excluded = {id(p) for p in exclude_from_muon}
    excluded |= {
        id(p)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for p in module.parameters()
    }
    matrices = [
        p
        for _, p in trainable
        if training.optimizer == "muon" and p.ndim == 2 and id(p) not in excluded
    ]
    in_muon = {id(p) for p in matrices}
    rest = [p for _, p in trainable if id(p) not in in_muon]
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        optimizers.append(
            torch.optim.Muon(
                matrices,
                lr=training.muon_learning_rate,
                weight_decay=training.weight_decay,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    if rest:
        # Norms, biases and other vectors are not decayed, as is usual for transformers.
        groups: list[dict[str, Any]] = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": training.weight_decay},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizers.append(
            torch.optim.AdamW(
                [g for g in groups if g["params"]],
                lr=training.learning_rate,
                betas=training.betas,
                fused=all(p.device.type in _FUSED_DEVICES for p in rest),
            )
        )
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_learning_rate(optimizers: Iterable[torch.optim.Optimizer], share_of_peak: float) -> None:
    """Set every group's rate to a share of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share_of_peak


def share_of_peak(step: int, steps: int, training: Training) -> float:
    """The learning rate of step 0..steps-1 as a share of its peak: linear warm-up, then decay."""
    warmup = math.ceil(training.warmup * steps)
    if step < warmup:
        return (step + 1) / warmup
    floor = training.final_learning_rate
    done = (step - warmup) / max(1, steps - warmup)
    if training.schedule == "cosine":
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))
    if training.schedule == "linear":
        return floor + (1 - floor) * (1 - done)
    return 1.0
