"""What several questions on one picture have in common goes through a model once.

In training and in scoring the questions stand in one sequence (`limbeck.data.packing`); in
generation the beginning's keys and values are computed once and handed to every question. Either
way nothing of a model is replaced. Whether a model can take it is proved on samples of the run.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from limbeck.data.packing import Group, grouped, is_shared, pack
from limbeck.data.tokens import Batch, Encoded, collate
from limbeck.records import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.models.load import LoadedModel

ATTENTION = ("sdpa", "eager")
"""Kernels that take a table of who sees whom."""

WHOLE = "full_attention"
"""The one type of layer in which a token sees all that came before it, and by attention alone."""

NOT_ALIKE = "prompts on the same pictures differ before the pictures end"
_SAME, _SAME_IN_HALF = 1e-4, 0.05
"""How far numbers may be apart, relative to the largest: in float32, and in less."""


def training_batch(loaded: LoadedModel, items: Sequence[Encoded], *, share_prefix: bool) -> Batch:
    """Samples with answers as one batch; neighbours that begin alike share a row if asked.

    Supervised rows are in the order of `items` either way.
    """
    import torch

    groups = grouped(items, loaded.encoder.image_token_id) if share_prefix else []
    if not is_shared(groups):
        return collate(items, pad_id=loaded.encoder.pad_id, side="right")
    batch = pack(groups, positions_of(loaded, items), loaded.encoder.pad_id)
    if loaded.base.config.get_text_config()._attn_implementation == "eager":
        # This kernel adds the table to the scores.
        seen_B1LL = batch.inputs["attention_mask"]
        added_B1LL = torch.zeros(seen_B1LL.shape, dtype=loaded.base.dtype)
        added_B1LL.masked_fill_(~seen_B1LL, torch.finfo(added_B1LL.dtype).min)
        batch.inputs["attention_mask"] = added_B1LL
    return batch


def prefilled(loaded: LoadedModel, groups: Sequence[Group]) -> dict[str, Any]:
    """What `generate` goes on from: every group's beginning in the cache, once for each question.

    Prompts are laid out as [padding, beginning, padding, rest]. No gradient must be kept.
    """
    import torch

    prompts = [item for group in groups for item in group.items]
    of_group = torch.tensor([n for n, group in enumerate(groups) for _ in group.items])
    shared = [group.shared for group in groups for _ in group.items]
    positions = positions_of(loaded, prompts)
    firsts = [int((of_group < n).sum()) for n in range(len(groups))]
    beginnings = collate(
        [group.prefix for group in groups], pad_id=loaded.encoder.pad_id, side="left"
    ).inputs
    of_beginnings = _left([positions[i][:, : shared[i]] for i in firsts])
    placed = loaded.place({**beginnings, "position_ids": _flat(of_beginnings)})
    cache = loaded.base.base_model(**placed, use_cache=True).past_key_values
    cache.batch_select_indices(of_group.to(loaded.device))
    rests = [
        Encoded(item.input_ids_L[first:], len(item.input_ids_L) - first)
        for item, first in zip(prompts, shared, strict=True)
    ]
    rest = collate(rests, pad_id=loaded.encoder.pad_id, side="left").inputs
    whole = {
        name: torch.cat([beginnings[name][of_group], rest[name]], dim=1)
        for name in ("input_ids", "attention_mask")
    }
    of_rests = _left([own[:, first:] for own, first in zip(positions, shared, strict=True)])
    whole["position_ids"] = _flat(torch.cat([of_beginnings[:, of_group], of_rests], dim=2))
    return {**loaded.place(whole), "past_key_values": cache}


def positions_of(loaded: LoadedModel, items: Sequence[Encoded]) -> list[Tensor]:
    """Of every sample the positions [axes, tokens] that the model gives it when it is alone.

    Models that place pictures on several axes say so themselves (`get_rope_index`); to all others
    a position is a count.
    """
    import torch

    lengths = [len(item.input_ids_L) for item in items]
    own = getattr(loaded.base.base_model, "get_rope_index", None)
    if own is None or not any(item.visual_tokens for item in items):
        return [torch.arange(length)[None] for length in lengths]
    batch = collate(items, pad_id=loaded.encoder.pad_id, side="right")
    names = set(inspect.signature(own).parameters)
    positions_ABL, _ = own(**{n: tensor for n, tensor in batch.inputs.items() if n in names})
    return [positions_ABL[:, b, :length] for b, length in enumerate(lengths)]


def why_not_packed(loaded: LoadedModel, items: Sequence[Encoded]) -> str | None:
    """Why these samples (with answers) cannot be trained on or scored in one sequence, if so.

    Hidden states in one sequence are compared with those of the samples apart.
    """
    if reason := _why_not_at_all(loaded, items):
        return reason
    together, apart = (
        _supervised(loaded, training_batch(loaded, items, share_prefix=share))
        for share in (True, False)
    )
    return _why_different(loaded, together, apart, "hidden states")


def why_not_continued(loaded: LoadedModel, items: Sequence[Encoded]) -> str | None:
    """Why answers to these samples cannot be generated from a common beginning, if so.

    The logits of two steps are compared with those of whole prompts.
    """
    from limbeck.models.generation import first_logits

    if reason := _why_not_at_all(loaded, items):
        return reason
    together, apart = (first_logits(loaded, items, share_prefix=share) for share in (True, False))
    return _why_different(loaded, together, apart, "logits")


def _why_not_at_all(loaded: LoadedModel, items: Sequence[Encoded]) -> str | None:
    text = loaded.base.config.get_text_config()
    kind = loaded.base.config.model_type
    if text._attn_implementation not in ATTENTION:
        return f"attention: {text._attn_implementation} takes no table of which token sees which"
    types = getattr(text, "layer_types", None)
    if types is None:
        window = getattr(text, "sliding_window", None)
        types = [WHOLE if window is None else "sliding_attention"]
    if others := sorted(set(types) - {WHOLE}):
        return f"models of type {kind} have layers of type {' and '.join(others)}"
    if not is_shared(grouped(items, loaded.encoder.image_token_id)):
        return NOT_ALIKE
    return None


def _why_different(loaded: LoadedModel, own: Tensor, theirs: Tensor, what: str) -> str | None:
    import torch

    in_full = theirs.dtype == torch.float32 and not torch.is_autocast_enabled(theirs.device.type)
    tolerance = _SAME if in_full else _SAME_IN_HALF
    own, theirs = own.float(), theirs.float()
    difference = (own - theirs).abs().max()
    if difference <= tolerance * theirs.abs().max().clamp(min=1.0):
        return None
    return (
        f"models of type {loaded.base.config.model_type} give other {what} when the beginning of a"
        f" prompt is shared (they differ by {difference:.3g})"
    )


def _supervised(loaded: LoadedModel, batch: Batch) -> Tensor:
    import torch

    training = loaded.model.training
    loaded.model.eval()
    try:
        with torch.no_grad():
            rows_BL = (batch.targets_BL != IGNORED).to(loaded.device)
            return loaded.hidden_states(batch.inputs)[rows_BL]
    finally:
        loaded.model.train(training)


def _left(positions: Sequence[Tensor]) -> Tensor:
    """Positions padded on the left [axes, B, tokens]."""
    import torch
    from torch.nn.functional import pad

    longest = max(one.shape[1] for one in positions)
    return torch.stack([pad(one, (longest - one.shape[1], 0)) for one in positions], dim=1)


def _flat(positions_ABL: Tensor) -> Tensor:
    return positions_ABL if positions_ABL.shape[0] > 1 else positions_ABL[0]
