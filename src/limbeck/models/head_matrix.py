"""The language head of a model as one matrix, where it is nothing more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.models.load import LoadedModel

AFTER_THE_HEAD = ("logit_scale", "logits_scaling", "final_logit_softcapping")
"""Settings of transformers' models that change logits after the matrix product."""


def head_matrix(loaded: LoadedModel) -> Tensor:
    """The weights [R, H] of a head that computes logits = hidden @ weights.T, all rows.

    Raises:
        UsageError: the head has a bias, is quantised or adapted, or its logits are scaled or
            capped.
    """
    from torch import nn

    head = loaded.base.get_output_embeddings()
    config = loaded.base.config.get_text_config()
    reasons = [name for name in AFTER_THE_HEAD if getattr(config, name, None) not in (None, 1.0)]
    if type(head) is not nn.Linear or not head.weight.is_floating_point():
        reasons.append(f"a head of type {type(head).__name__}")
    elif head.bias is not None:
        reasons.append("a bias")
    if reasons:
        raise UsageError(
            f"the head is no plain matrix (it has {' and '.join(reasons)})",
            where=type(loaded.base).__name__,
            mend="set label.signal to top_k or live",
        )
    return head.weight.detach()
