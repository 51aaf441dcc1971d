"""Verbalisers: small networks that let an inner layer of a model speak through its own head.

    y = h + down(silu(gate(h)) * up(h))      three square maps, no expansion ("residual_zero")
    y = down(silu(gate(h)) * up(h))          without the first term ("random")
    logits = head(RMSNorm(y))                the model's own head, which is not trained

"residual_zero" starts with down = 0 and the model's last normalisation, which is the logit lens.

Source: Lee et al. 2024, "VLsI", arXiv 2412.01822, section 3.1.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from limbeck.errors import DataError, UsageError
from limbeck.store import write_atomic, write_json

if TYPE_CHECKING:
    from limbeck.models.load import LoadedModel

WEIGHTS, FACTS = "verbalisers.safetensors", "verbalisers.json"
SAME_NORM = 1e-3


class Verbaliser(nn.Module):
    """From hidden states of one layer [N, H] to what the head reads [N, H]."""

    def __init__(self, width: int, epsilon: float, residual: bool) -> None:
        super().__init__()
        self.gate, self.up, self.down = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.norm = nn.RMSNorm(width, eps=epsilon)
        self.residual = residual

    def forward(self, hidden_NH: Tensor) -> Tensor:
        """In the precision of the weights, whatever autocast says: states of layers are large."""
        with torch.autocast(hidden_NH.device.type, enabled=False):
            hidden_NH = hidden_NH.to(self.down.weight)
            made = self.down(nn.functional.silu(self.gate(hidden_NH)) * self.up(hidden_NH))
            return self.norm(hidden_NH + made if self.residual else made)


def new_verbalisers(loaded: LoadedModel, count: int, init: str) -> nn.ModuleList:
    """Verbalisers for `count` layers of a model; "random" draws from the global random state.

    Raises:
        UsageError: the model's last normalisation is no RMSNorm.
    """
    weight_H, epsilon = final_norm(loaded)
    made = nn.ModuleList(
        Verbaliser(len(weight_H), epsilon, residual=init != "random") for _ in range(count)
    )
    if init != "random":
        for verbaliser in made:
            nn.init.zeros_(verbaliser.down.weight)  # pyright: ignore[reportArgumentType]
            verbaliser.norm.weight.data.copy_(weight_H)  # pyright: ignore
    return made.to(loaded.device)


def final_norm(loaded: LoadedModel) -> tuple[Tensor, float]:
    """Weight [H] and epsilon of the normalisation before the head, in float32.

    Raises:
        UsageError: it is no RMSNorm.
    """
    (path,) = loaded.family.parts(loaded.base)["language_model"]
    norm: Any = getattr(loaded.base.get_submodule(path), "norm", None)
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if norm is not None and epsilon is not None and getattr(norm, "bias", None) is None:
        weight_H = norm.weight.detach().float()
        probe = torch.randn(4, len(weight_H), generator=torch.Generator().manual_seed(0))
        probe = probe.to(weight_H)
        own = nn.functional.rms_norm(probe, weight_H.shape, weight_H, epsilon)
        with torch.no_grad():
            theirs = norm(probe.to(norm.weight.dtype)).float()
        tolerance = SAME_NORM if norm.weight.dtype == torch.float32 else 0.05
        if torch.allclose(own, theirs, atol=tolerance, rtol=tolerance):
            return weight_H, float(epsilon)
    raise UsageError(
        f"the last normalisation of a {type(loaded.base).__name__} is no RMSNorm",
        where="losses: verbalised",
        mend="use another family for verbalised distillation",
    )


def save_verbalisers(folder: Path, verbalisers: nn.ModuleList, facts: dict[str, Any]) -> None:
    """Write weights and facts; `facts` has the layers, and init."""
    from safetensors.torch import save

    first: Any = verbalisers[0]
    tensors = {n: t.detach().cpu().contiguous() for n, t in verbalisers.state_dict().items()}
    write_atomic(folder / WEIGHTS, save(tensors))
    sizes = {
        "width": first.down.weight.shape[0],
        "epsilon": first.norm.eps,
        "residual": first.residual,
        "count": len(verbalisers),
    }
    write_json(folder / FACTS, {**facts, **sizes})


def read_verbalisers(folder: Path, device: str) -> tuple[nn.ModuleList, dict[str, Any]]:
    """Verbalisers and their facts.

    Raises:
        DataError: the folder does not hold them.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        facts = json.loads((folder / FACTS).read_text())
        tensors = load_file(folder / WEIGHTS)
        made = nn.ModuleList(
            Verbaliser(facts["width"], facts["epsilon"], facts["residual"])
            for _ in range(facts["count"])
        )
        made.load_state_dict(tensors, strict=True)
    except (OSError, ValueError, KeyError, SafetensorError, RuntimeError) as error:
        raise DataError(
            f"verbalisers cannot be read ({error})", where=str(folder), mend="run again"
        ) from error
    return made.to(device), facts
