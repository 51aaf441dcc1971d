"""A head as a sum of linear maps is the head that the model has, or its difference is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.losses.fused import fused_sums
from limbeck.models.adapt import prepare_for_training
from limbeck.models.family import family_named
from limbeck.models.linear_head import linear_head, why_not_linear
from limbeck.models.load import LoadedModel, load_model
from limbeck.recipe.sections import Adapter, ModelSection


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_named("qwen2_vl").tiny(tmp_path_factory.mktemp("qwen2_vl"))


@pytest.fixture(scope="module")
def untied(tied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    import transformers

    folder = tmp_path_factory.mktemp("untied")
    config = transformers.AutoConfig.from_pretrained(tied)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    transformers.AutoModelForImageTextToText.from_config(config).save_pretrained(folder)
    transformers.AutoProcessor.from_pretrained(tied).save_pretrained(folder)
    return folder


def load(folder: Path, adapter: Adapter | None = None, **fields: Any) -> LoadedModel:
    torch.manual_seed(0)
    loaded = load_model(ModelSection(model=str(folder), **fields), device="cpu")
    prepare_for_training(loaded, adapter=adapter)
    for name, parameter in loaded.model.named_parameters():
        if "lora_B" in name:  # starts at 0, where its partner has no gradient
            torch.nn.init.normal_(parameter, std=0.1)
    return loaded


def hidden(loaded: LoadedModel) -> Tensor:
    width = loaded.base.get_input_embeddings().weight.shape[1]
    generator = torch.Generator().manual_seed(1)
    return torch.randn(9, width, generator=generator).requires_grad_()


def head_gradients(loaded: LoadedModel) -> dict[str, Tensor]:
    found = {n: p.grad for n, p in loaded.model.named_parameters() if p.grad is not None}
    loaded.model.zero_grad()
    return found


@pytest.mark.parametrize("adapter", [None, Adapter(parts=("head",), rank=4, dropout=0.0)], ids=str)
def test_gradients_of_the_head_and_its_adapter_are_the_models_own(
    untied: Path, adapter: Adapter | None
) -> None:
    loaded = load(untied, adapter)
    assert why_not_linear(loaded) is None
    hidden_NH = hidden(loaded)
    rows = loaded.base.get_output_embeddings().weight.shape[0]
    labels_N = torch.arange(9)
    logits_NR = loaded.head(hidden_NH)
    torch.nn.functional.cross_entropy(logits_NR, labels_N, reduction="sum").backward()
    expected, of_hidden = head_gradients(loaded), hidden_NH.grad
    assert expected
    hidden_NH.grad = None
    head = linear_head(loaded, hidden_NH, 0, rows)
    fused_sums(head, labels_N, [CrossEntropy()], [1.0], None, chunk_rows=4)[0].backward()
    found = head_gradients(loaded)
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(hidden_NH.grad, of_hidden, rtol=1e-5, atol=1e-6)


def test_a_disabled_adapter_does_not_count(untied: Path) -> None:
    loaded = load(untied, Adapter(parts=("head",), rank=4))
    hidden_NH = hidden(loaded)
    assert len(linear_head(loaded, hidden_NH, 0, 8).terms) == 2
    with loaded.model.disable_adapter():
        assert len(linear_head(loaded, hidden_NH, 0, 8).terms) == 1


def test_a_tied_head_trains_the_embedding(tied: Path) -> None:
    loaded = load(tied)
    head = linear_head(loaded, hidden(loaded), 0, 8)
    assert head.terms[0][1] is loaded.base.get_input_embeddings().weight


def test_what_is_not_linear_is_named(untied: Path) -> None:
    dora = load(untied, Adapter(kind="dora", parts=("head",), rank=4))
    assert "adapter is a Dora" in (why_not_linear(dora) or "")
    capped = load(untied)
    capped.base.config.get_text_config().final_logit_softcapping = 30.0
    assert "final_logit_softcapping" in (why_not_linear(capped) or "")
    hooked = load(untied)
    hooked.base.get_output_embeddings().register_forward_hook(lambda *_: None)
    assert "hook" in (why_not_linear(hooked) or "")
    half = load(untied)
    half.base.get_output_embeddings().half()
    assert "float16" in (why_not_linear(half) or "")
