"""The optimisers: one update by its formula."""

from __future__ import annotations

import torch

from limbeck.recipe.sections import Training
from limbeck.training.optimizer import make_optimizers


def test_adamw_updates_every_weight_in_one_kernel_and_by_its_formula() -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    training = Training(learning_rate=0.1, weight_decay=0.5, betas=(0.8, 0.9))
    (optimizer,) = make_optimizers(model, training)
    assert all(group["fused"] for group in optimizer.param_groups)
    model(torch.randn(5, 3)).pow(3).sum().backward()
    optimizer.step()
    for name, p in model.named_parameters():
        assert p.grad is not None
        # After one step both moments are the gradient's own, so that the step is its sign.
        kept = before[name] * (1 - 0.1 * 0.5) if p.ndim >= 2 else before[name]
        expected = kept - 0.1 * p.grad / (p.grad.abs() + 1e-8)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-5, atol=1e-6)
