"""What a frozen vision tower and projector give to the language model, in place of the pixels.

Nothing that is trained has a part in these features, so they are computed once a sample. They go
into the model by the door that transformers has for them (`mm_encoder_outputs`), and nothing of the
model is replaced.
"""

from __future__ import annotations

import inspect
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

WHERE = "training.cache_vision_features"
_DOOR = "mm_encoder_outputs"
_PIXELS = "pixel_"
_SAME, _SAME_IN_HALF = 1e-4, 0.05
"""How far hidden states may be apart, relative to the largest: in float32, and in less."""


def features_of(loaded: LoadedModel, item: Encoded) -> Tensor:
    """What the language model gets for one sample's pictures [visual tokens, H].

    Dropout is off, and no gradient is kept.
    """
    return _pooled(loaded, item, gradient=False)


def without_pixels(item: Encoded, features_TH: Tensor) -> Encoded:
    """The same sample with its features where its pixels were; sizes of pictures stay."""
    small = {n: t for n, t in item.features.items() if not n.startswith(_PIXELS)}
    return replace(item, features={**small, FEATURES: features_TH})


def by_the_door(inputs: dict[str, Any]) -> dict[str, Any]:
    """Model inputs in which cached features, if there are any, are what the model takes."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    if FEATURES not in inputs:
        return inputs
    rest = {name: value for name, value in inputs.items() if name != FEATURES}
    outputs = BaseModelOutputWithPooling(pooler_output=(inputs[FEATURES],))  # type: ignore[arg-type]
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
    cached = without_pixels(item, features_of(loaded, item))
    own, theirs = (_hidden(loaded, one) for one in (cached, item))
    in_full = theirs.dtype == torch.float32 and not torch.is_autocast_enabled(theirs.device.type)
    tolerance = _SAME if in_full else _SAME_IN_HALF
    if (difference := (own - theirs).abs().max()) > tolerance * theirs.abs().max().clamp(min=1.0):
        raise _refusal(
            f"with cached features models of type {name} do not give what they give with pictures"
            f" (hidden states differ by {difference:.3g})"
        )


def _pooled(loaded: LoadedModel, item: Encoded, *, gradient: bool) -> Tensor:
    import torch

    encode = loaded.base.base_model.get_image_features
    names = _parameters(encode)
    given = {name: tensor for name, tensor in item.features.items() if name in names}
    training = loaded.model.training
    loaded.model.eval()
    try:
        with nullcontext() if gradient else torch.no_grad():
            output = encode(**loaded.place(given), return_dict=True)
    finally:
        loaded.model.train(training)
    if getattr(output, "deepstack_features", None) is not None:
        raise _refusal(
            f"models of type {loaded.base.config.model_type} hand features of several layers to"
            " their language model"
        )
    rows = output.pooler_output
    features_TH = torch.cat(list(rows)) if isinstance(rows, (list, tuple)) else rows
    if features_TH.shape[:-1] != (item.visual_tokens,):
        raise _refusal(
            f"models of type {loaded.base.config.model_type} give features"
            f" {list(features_TH.shape)} for {item.visual_tokens} visual tokens"
        )
    return features_TH


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

    features_TH = _pooled(loaded, item, gradient=True)
    trained = {n: p for n, p in loaded.base.named_parameters() if p.requires_grad}
    if not (features_TH.requires_grad and trained):
        return []
    gradients = torch.autograd.grad(
        features_TH.float().sum(), list(trained.values()), allow_unused=True
    )
    makers = {n for n, g in zip(trained, gradients, strict=True) if g is not None}
    found: list[str] = []
    for part in ("vision_tower", "projector"):
        if part in loaded.family.parts(loaded.base):
            inside = makers.intersection(loaded.family.part_of(loaded.base, part))
            found += [part] if inside else []
            makers -= inside
    return found + sorted(makers)[:3]


def _parameters(function: Any) -> set[str]:
    return set(inspect.signature(function).parameters)


def _refusal(what: str) -> UsageError:
    return UsageError(what, where=WHERE, mend="set it to false for this student")
