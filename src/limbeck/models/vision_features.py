"""What a frozen vision tower and projector give to the language model, in place of the pixels.

Nothing that is trained has a part in these features, so they are computed once a sample. They go
into the model by the door that transformers has for them (`mm_encoder_outputs`), and nothing of the
model is replaced.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from limbeck.data.tokens import Encoded, collate
from limbeck.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.models.load import LoadedModel

FEATURES = "vision_features"
"""Name in `Encoded.features` of the rows [visual tokens, H] that stand for a sample's pictures."""

DEEP = FEATURES + "_deep_"
"""Begins the names of further rows [visual tokens, H] that some families (Qwen3-VL) add to what
comes out of the language model's first layers, the first layer's first."""

WHERE = "training.cache_vision_features"
_DOOR = "mm_encoder_outputs"
_PIXELS = "pixel_"
_SAME, _SAME_IN_HALF = 1e-4, 0.05
"""How far hidden states may be apart, relative to the largest: in float32, and in less."""


def features_of(loaded: LoadedModel, items: Sequence[Encoded]) -> list[dict[str, Tensor]]:
    """What the language model gets for each sample's pictures, by name: rows [visual tokens, H].

    All samples go through the tower at once. Dropout is off, and no gradient is kept.
    """
    together = _encoded(loaded, items, gradient=False)
    counts = [item.visual_tokens for item in items]
    pieces = {name: rows.split(counts) for name, rows in together.items()}
    return [{name: rows[i] for name, rows in pieces.items()} for i in range(len(items))]


def without_pixels(item: Encoded, features: Mapping[str, Tensor]) -> Encoded:
    """The same sample with its features where its pixels were; sizes of pictures stay."""
    small = {n: t for n, t in item.features.items() if not n.startswith(_PIXELS)}
    return replace(item, features={**small, **features})


def by_the_door(inputs: dict[str, Any]) -> dict[str, Any]:
    """Model inputs in which cached features, if there are any, are what the model takes."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    if FEATURES not in inputs:
        return inputs
    rest = {name: value for name, value in inputs.items() if not name.startswith(FEATURES)}
    outputs: Any = BaseModelOutputWithPooling(pooler_output=(inputs[FEATURES],))  # type: ignore[arg-type]
    if deep := sorted(name for name in inputs if name.startswith(DEEP)):
        outputs.deepstack_features = [(inputs[name],) for name in deep]
    return {**rest, _DOOR: {"image": outputs}}


def check_cacheable(loaded: LoadedModel, item: Encoded) -> None:
    """Prove on one sample that its features stay the same in training and are all that is needed.

    Args:
        loaded: the model as it will be trained.
        item: a sample with pictures.

    Raises:
        UsageError: something that is trained makes the features, or the family hands more than
            these rows to its language model.
    """
    import torch

    name = loaded.base.config.model_type
    tower = loaded.base.base_model
    if not hasattr(tower, "get_image_features") or _DOOR not in _parameters(tower.forward):
        raise _refusal(f"models of type {name} do not take features in place of pictures")
    if trained := _trained(loaded, item):
        raise UsageError(
            f"what is trained changes the features of pictures ({', '.join(trained)})",
            where=WHERE,
            mend="freeze vision_tower and projector, or adapt the language model only",
        )
    cached = without_pixels(item, features_of(loaded, [item])[0])
    theirs = _hidden(loaded, item)
    try:
        own = _hidden(loaded, cached)
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise _refusal(
            f"models of type {name} do not run from cached features ({first})"
        ) from error
    in_full = theirs.dtype == torch.float32 and not torch.is_autocast_enabled(theirs.device.type)
    tolerance = _SAME if in_full else _SAME_IN_HALF
    if (difference := (own - theirs).abs().max()) > tolerance * theirs.abs().max().clamp(min=1.0):
        raise _refusal(
            f"with cached features models of type {name} do not give what they give with pictures"
            f" (hidden states differ by {difference:.3g})"
        )


def _encoded(loaded: LoadedModel, items: Sequence[Encoded], *, gradient: bool) -> dict[str, Tensor]:
    """The features of all samples, one sample's rows after the other's."""
    import torch

    encode = loaded.base.base_model.get_image_features
    names = _parameters(encode)
    batch = collate(items, pad_id=loaded.encoder.pad_id, side="right")
    given = {name: tensor for name, tensor in batch.inputs.items() if name in names}
    training = loaded.model.training
    loaded.model.eval()
    try:
        with nullcontext() if gradient else torch.no_grad():
            output = encode(**loaded.place(given), return_dict=True)
    finally:
        loaded.model.train(training)
    found = {FEATURES: _joined(output.pooler_output)}
    for number, rows in enumerate(getattr(output, "deepstack_features", None) or ()):
        found[f"{DEEP}{number:02d}"] = _joined(rows)
    tokens = sum(item.visual_tokens for item in items)
    for features_TH in found.values():
        if features_TH.shape[:-1] != (tokens,):
            raise _refusal(
                f"models of type {loaded.base.config.model_type} give features"
                f" {list(features_TH.shape)} for {tokens} visual tokens"
            )
    return found


def _joined(rows: Any) -> Tensor:
    import torch

    return torch.cat(list(rows)) if isinstance(rows, (list, tuple)) else rows


def _hidden(loaded: LoadedModel, item: Encoded) -> Tensor:
    import torch

    batch = collate([item], pad_id=loaded.encoder.pad_id, side="right")
    training = loaded.model.training
    loaded.model.eval()
    try:
        with torch.no_grad():
            return loaded.hidden_states(batch.inputs)
    finally:
        loaded.model.train(training)


def _trained(loaded: LoadedModel, item: Encoded) -> list[str]:
    """What is trained and makes the features: parts, or weights that belong to neither part."""
    import torch

    found = _encoded(loaded, [item], gradient=True)
    trained = {n: p for n, p in loaded.base.named_parameters() if p.requires_grad}
    total = torch.stack([rows.float().sum() for rows in found.values()]).sum()
    if not (total.requires_grad and trained):
        return []
    gradients = torch.autograd.grad(total, list(trained.values()), allow_unused=True)
    makers = {n for n, g in zip(trained, gradients, strict=True) if g is not None}
    named: list[str] = []
    for part in ("vision_tower", "projector"):
        if part in loaded.family.parts(loaded.base):
            inside = makers.intersection(loaded.family.part_of(loaded.base, part))
            named += [part] if inside else []
            makers -= inside
    return named + sorted(makers)[:3]


def _parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def _refusal(what: str) -> UsageError:
    return UsageError(what, where=WHERE, mend="set it to false for this student")
