"""A language head as a sum of linear maps, for losses that are computed together with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from limbeck.records import LinearHead

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.models.load import LoadedModel

LOGIT_FUNCTIONS = ("logit_scale", "logits_scaling", "final_logit_softcapping")
"""Settings by which a model does something to its head's output."""


def why_not_linear(loaded: LoadedModel) -> str | None:
    """What of the head is not a plain linear map with low-rank adapters; None if all is."""
    import torch
    from torch import nn

    head = loaded.base.get_output_embeddings()
    config = loaded.base.config.get_text_config()
    for name in LOGIT_FUNCTIONS:
        if getattr(config, name, None) is not None:
            return f"the head's output goes through {name}"
    linear = getattr(head, "base_layer", head)
    if type(linear) is not nn.Linear or type(linear.weight) is not nn.Parameter:
        return f"the head is a {type(linear).__name__} with {type(linear.weight).__name__} weights"
    if linear.weight.dtype not in (torch.bfloat16, torch.float32, torch.float64):
        return f"the head's weights are {linear.weight.dtype}"
    for module in head.modules():
        if module._forward_hooks or module._forward_pre_hooks:
            return "a hook is set on the head"
    return None if head is linear else _why_not_low_rank(head)


def linear_head(loaded: LoadedModel, hidden_NH: Tensor, first: int, size: int) -> LinearHead:
    """The head on these rows, for a model of which `why_not_linear` says nothing."""
    head = loaded.base.get_output_embeddings()
    linear = getattr(head, "base_layer", head)
    terms = [(hidden_NH, linear.weight)]
    if linear is not head and not head.disable_adapters and not head.merged:
        for name in head.active_adapters:
            if name not in head.lora_A:
                continue
            down, up = head.lora_A[name], head.lora_B[name]
            dropped = head.lora_dropout[name](hidden_NH.to(down.weight.dtype))
            terms.append((down(dropped) * head.scaling[name], up.weight))
    dtype = linear.weight.dtype
    terms = [(hidden.to(dtype), weight.to(dtype)) for hidden, weight in terms]
    return LinearHead(tuple(terms), linear.bias, first, size)


def _why_not_low_rank(head: Any) -> str | None:
    from peft.tuners.lora import Linear

    if type(head) is not Linear:
        return f"the head is wrapped in a {type(head).__name__}"
    if kinds := {type(variant).__name__ for variant in head.lora_variant.values()}:
        return f"the head's adapter is a {', '.join(sorted(kinds))}"
    if any(up.bias is not None for up in head.lora_B.values()):
        return "the head's adapter has a bias"
    return None
