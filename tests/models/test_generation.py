"""Generation: plain decoding, seeds, limits, and what is left as it was."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from PIL import Image

from limbeck.data.tokens import Encoded, collate
from limbeck.models.family import family_named
from limbeck.models.load import LoadedModel, load_model
from limbeck.recipe.sections import ModelSection
from limbeck.records import ImageFile, Sample


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    Image.effect_noise((64, 64), 90).convert("RGB").save(folder / "a.png")
    return folder


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedModel:
    folder = family_named("qwen2_vl").tiny(tmp_path / "model")
    loaded = load_model(ModelSection(model=str(folder)), device="cpu")
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in loaded.model.named_parameters():
            if parameter.ndim > 1:
                strength = 0.1 if "embed_tokens" in name else 0.3
                parameter.add_(torch.randn_like(parameter) * strength)
    return loaded


def item_of(loaded: LoadedModel, data: Path) -> Encoded:
    parts = [{"type": "image"}, {"type": "text", "text": "Describe the picture."}]
    message = {"role": "user", "content": parts}
    sample = Sample("a", "train", (message,), (ImageFile("a.png", "", 64, 64),))
    return loaded.encoder.encode(sample, data, None)


def favour(loaded: LoadedModel, token: int) -> None:
    """Make `token` the most probable one everywhere."""
    import torch.nn.functional as functional

    head = loaded.base.lm_head
    bias = functional.one_hot(torch.tensor(token), head.out_features) * 1e4
    head.register_forward_hook(lambda module, args, output: output + bias)


def test_greedy_tokens_are_the_argmax_of_the_logits(loaded: LoadedModel, data: Path) -> None:
    """Whatever penalties the checkpoint's own generation settings ask for."""
    settings = loaded.base.generation_config
    settings.repetition_penalty, settings.do_sample, settings.temperature = 5.0, True, 3.0
    settings.no_repeat_ngram_size, settings.top_k = 1, 5
    item = item_of(loaded, data)
    answer = loaded.generate([item], max_new_tokens=8)[0]
    ids = torch.cat([item.input_ids_L, torch.tensor(answer.token_ids)])
    zeros = torch.zeros(len(answer.token_ids), dtype=torch.long)
    aligned = {name: torch.cat([tensor, zeros]) for name, tensor in item.aligned.items()}
    scored = Encoded(ids, item.answer_start, aligned, item.features)
    batch = collate([scored], pad_id=loaded.encoder.pad_id, side="right")
    with torch.no_grad():
        logits_NR = loaded.head(loaded.hidden_states(batch.inputs)[batch.targets_BL != -100])
    assert tuple(logits_NR.argmax(-1).tolist()) == answer.token_ids
    assert settings is loaded.base.generation_config
    assert settings.repetition_penalty == 5.0


def test_an_end_token_finishes_an_answer_and_is_no_text(loaded: LoadedModel, data: Path) -> None:
    end = loaded.encoder.end_ids[0]
    favour(loaded, end)
    answer = loaded.generate([item_of(loaded, data)], max_new_tokens=8)[0]
    assert answer.token_ids == (end,)
    assert answer.finished
    assert answer.text == ""


def test_a_limit_leaves_an_answer_unfinished(loaded: LoadedModel, data: Path) -> None:
    word = loaded.tokenizer.convert_tokens_to_ids(" square")
    favour(loaded, word)
    answer = loaded.generate([item_of(loaded, data)], max_new_tokens=3)[0]
    assert not answer.finished
    assert answer.token_ids == (word,) * 3
    assert answer.text == "square square square"


def test_a_fixed_length_holds_back_the_end(loaded: LoadedModel, data: Path) -> None:
    favour(loaded, loaded.encoder.end_ids[0])
    items = [item_of(loaded, data)] * 2
    for answer in loaded.generate(items, max_new_tokens=5, min_new_tokens=5):
        assert len(answer.token_ids) == 5
        assert not answer.finished


def test_one_early_end_does_not_lengthen_or_pad_the_answer(loaded: LoadedModel, data: Path) -> None:
    item = item_of(loaded, data)
    together = loaded.generate([item] * 4, max_new_tokens=12, temperature=50.0, seed=5)
    ends = {len(answer.token_ids) for answer in together if answer.finished}
    assert ends, "no sampled answer ended; choose another seed"
    for answer in together:
        if answer.finished:
            assert answer.token_ids[-1] in loaded.encoder.end_ids
            assert not set(answer.token_ids[:-1]) & set(loaded.encoder.end_ids)
        else:
            assert len(answer.token_ids) == 12


def test_a_seed_decides_what_is_sampled_and_nothing_else(loaded: LoadedModel, data: Path) -> None:
    items = [item_of(loaded, data)]
    torch.manual_seed(7)
    before = torch.get_rng_state()

    def sampled(seed: int) -> tuple[int, ...]:
        return loaded.generate(items, max_new_tokens=12, temperature=1.5, seed=seed)[0].token_ids

    assert sampled(1) == sampled(1)
    assert len({sampled(seed) for seed in range(4)}) > 1
    assert torch.equal(torch.get_rng_state(), before)


def test_the_training_mode_is_kept(loaded: LoadedModel, data: Path) -> None:
    loaded.model.train()
    loaded.generate([item_of(loaded, data)], max_new_tokens=2)
    assert loaded.model.training


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7}, {"min_new_tokens": 4}])
def test_generation_warns_of_nothing(
    loaded: LoadedModel,
    data: Path,
    options: dict[str, float],
    capfd: pytest.CaptureFixture[str],
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded.generate([item_of(loaded, data)], max_new_tokens=4, **options)
    assert capfd.readouterr() == ("", "")
