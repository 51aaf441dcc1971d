"""What the layers of a model say: each target layer's distribution along a given answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.records import IGNORED, Sample, StudentView, Tap

if TYPE_CHECKING:
    from torch import Tensor, nn

    from limbeck.models.load import LoadedModel

Guess = tuple[str, float]
"""A token's text and its probability."""


@dataclass(frozen=True)
class Said:
    """What one layer says at every position of the answer, the answer before it being given.

    Attributes:
        layer: counted from 1; None for the model itself.
        text: the likeliest token of every position, as one text.
        tokens: for every position the likeliest tokens, the likeliest first.
        loss: mean -log p of the answer's tokens, in nats.
        divergence: mean KL(the model itself || this layer) over the positions, in nats.
    """

    layer: int | None
    text: str
    tokens: tuple[tuple[Guess, ...], ...]
    loss: float
    divergence: float


@dataclass(frozen=True)
class Speech:
    """An answer, cut into tokens, and what every layer says along it, the model itself last."""

    answer: tuple[str, ...]
    said: tuple[Said, ...]


def speech(
    model: LoadedModel,
    verbalisers: nn.ModuleList,
    layers: Sequence[int],
    sample: Sample,
    data: Path,
    answer: str,
    top: int,
) -> Speech:
    """Let the layers speak along an answer.

    Args:
        model: whose layers.
        verbalisers: one a layer.
        layers: their numbers, from 0.
        sample: what is asked.
        data: folder that the sample's pictures are relative to.
        answer: what is given, token by token.
        top: how many tokens are told of every position.
    """
    import torch

    from limbeck.data.tokens import collate
    from limbeck.models.taps import tapped

    encoder = model.encoder
    item = encoder.encode(sample, data, answer)
    batch = collate([item], pad_id=encoder.pad_id, side="right").to(model.device)
    rows_BL = batch.targets_BL != IGNORED
    labels_N = batch.targets_BL[rows_BL]
    taps = [Tap("hidden", layer) for layer in layers]
    dtype = model.base.dtype

    def head(hidden_NH: Tensor) -> Tensor:
        return model.head(hidden_NH.to(dtype))

    with torch.no_grad():
        with tapped(model, taps) as seen:
            hidden_NH = model.hidden_states(batch.inputs)[rows_BL]
        states = seen.features(batch.inputs, batch.targets_BL).only(taps)
        view = StudentView(labels_N, hidden_NH, head, states)
        own_logp_NV = view.logits_NV.float().log_softmax(-1)
        found = [
            head(say(torch.cat(state))).float().log_softmax(-1)
            for say, state in zip(verbalisers.children(), states.tensors.values(), strict=True)
        ]

        def said(layer: int | None, logp_NV: Tensor) -> Said:
            logp_NK, ids_NK = logp_NV.topk(min(top, logp_NV.shape[-1]), dim=-1)
            guesses = tuple(
                tuple(
                    (_token(model, token), float(p))
                    for token, p in zip(ids, row.exp(), strict=True)
                )
                for ids, row in zip(ids_NK.tolist(), logp_NK, strict=True)
            )
            return Said(
                layer=None if layer is None else layer + 1,
                text=model.tokenizer.decode(ids_NK[:, 0].tolist()),
                tokens=guesses,
                loss=float(-logp_NV.gather(-1, labels_N[:, None]).mean()),
                divergence=float((own_logp_NV.exp() * (own_logp_NV - logp_NV)).sum(-1).mean()),
            )

        lines = [said(layer, logp) for layer, logp in zip(layers, found, strict=True)]
        lines.append(said(None, own_logp_NV))
    return Speech(tuple(_token(model, token) for token in labels_N.tolist()), tuple(lines))


def _token(model: LoadedModel, token: int) -> str:
    return str(model.tokenizer.decode([token]))
