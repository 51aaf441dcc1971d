"""The head is handed out as a matrix only where it is one."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from limbeck.errors import UsageError
from limbeck.models.head_matrix import head_matrix


def loaded(head: nn.Module, **config: Any) -> Any:
    base = SimpleNamespace(
        get_output_embeddings=lambda: head,
        config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(**config)),
    )
    return SimpleNamespace(base=base)


def test_a_plain_head_is_its_weights() -> None:
    head = nn.Linear(4, 9, bias=False)
    found = head_matrix(loaded(head, logit_scale=None, final_logit_softcapping=None))
    assert torch.equal(found, head.weight)
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("head", "config", "said"),
    [
        (nn.Linear(4, 9), {}, "bias"),
        (nn.Sequential(nn.Linear(4, 9, bias=False)), {}, "Sequential"),
        (nn.Linear(4, 9, bias=False), {"final_logit_softcapping": 30.0}, "softcapping"),
        (nn.Linear(4, 9, bias=False), {"logits_scaling": 8.0}, "logits_scaling"),
        (nn.Linear(4, 9, bias=False), {"logit_scale": 0.25}, "logit_scale"),
    ],
)
def test_any_other_head_is_refused_with_what_helps(
    head: nn.Module, config: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        head_matrix(loaded(head, **config))
    assert "label.signal to top_k" in str(raised.value)
