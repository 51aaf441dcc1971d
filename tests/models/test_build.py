"""Models made from sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from limbeck.errors import UsageError
from limbeck.models.build import build_model
from limbeck.models.family import Family, family_named
from limbeck.recipe.sections import Build

TEXTS = (
    "Describe the screen.",
    "A settings screen. title settings, button save, button cancel",
    "A login screen. title login, field name, field password, button enter",
)
SMALL = {"hidden_size": 32, "layers": 2, "heads": 2, "key_value_heads": 1, "intermediate_size": 64}
SMALL |= {"vision_hidden_size": 32, "vision_layers": 2, "vision_heads": 2}


def small(**fields: object) -> Build:
    return Build(**{"family": "qwen2_vl", **SMALL, **fields})


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("same", 3), ("other", 4)):
        build_model(small(), TEXTS, seed, tmp_path / name)
    weights = [(tmp_path / n / "model.safetensors").read_bytes() for n in ("one", "same", "other")]
    assert weights[0] == weights[1] != weights[2]


@pytest.mark.parametrize(("kind", "tokens"), [("word", 64), ("bpe", 300)])
def test_other_sizes_on_the_same_texts_share_the_tokenizer(
    kind: str, tokens: int, tmp_path: Path
) -> None:
    fields = {"tokenizer": kind, "tokenizer_vocabulary": tokens}
    build_model(small(**fields), TEXTS, 0, tmp_path / "student")
    build_model(small(**fields, hidden_size=64, layers=3), TEXTS, 9, tmp_path / "teacher")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        student, teacher = (tmp_path / who / name for who in ("student", "teacher"))
        assert student.read_bytes() == teacher.read_bytes()


def test_the_sizes_are_those_that_were_asked_for(tmp_path: Path) -> None:
    build = small(vocabulary_rows=128, context_tokens=200, image_mean=0.9, image_std=0.35)
    summary = build_model(build, TEXTS, 0, tmp_path)
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path)
    processor = transformers.AutoProcessor.from_pretrained(tmp_path)
    assert type(model) is transformers.Qwen2VLForConditionalGeneration
    assert summary["parameters"] == sum(p.numel() for p in model.parameters())
    assert summary["vocabulary_rows"] == model.lm_head.weight.shape[0] == 128
    assert summary["tokenizer_tokens"] == len(processor.tokenizer) < 128
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert len(model.model.language_model.layers) == len(model.model.visual.blocks) == 2
    assert model.config.text_config.max_position_embeddings == 200
    assert processor.image_processor.image_mean == (0.9,) * 3
    assert processor.image_processor.image_std == (0.35,) * 3
    assert processor.tokenizer.eos_token == "<|im_end|>"
    assert processor.tokenizer.pad_token == "<|endoftext|>"
    assert model.generation_config.eos_token_id == processor.tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == processor.tokenizer.pad_token_id


def test_the_demo_s_models_have_the_sizes_that_were_measured(tmp_path: Path) -> None:
    teacher = small(hidden_size=160, layers=5, heads=4, key_value_heads=2, intermediate_size=320)
    summary = build_model(teacher, TEXTS, 0, tmp_path)
    assert 0.5e6 < summary["parameters"] < 3e6


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"hidden_size": 33}, "build.hidden_size"),
        ({"vision_hidden_size": 36, "vision_heads": 4}, "build.vision_hidden_size"),
        ({"heads": 4, "hidden_size": 64, "key_value_heads": 3}, "build.key_value_heads"),
        ({"vocabulary_rows": 10}, "build.vocabulary_rows"),
        ({"tokenizer": "bpe", "tokenizer_vocabulary": 100}, "build.tokenizer_vocabulary"),
        ({"family": "paligemma"}, "build.family.*cannot be built.*qwen2_vl"),
        ({"family": "load"}, "build.family.*cannot be built"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    fields: dict[str, object], error: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=error):
        build_model(small(**fields), TEXTS, 0, tmp_path)


def test_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no text"):
        build_model(small(), [" "], 0, tmp_path)


def test_a_family_without_a_file_goes_by_the_usual_names() -> None:
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "patch_size": 16, "image_size": 32}
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "vocab_size": 40}
    text |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    config = transformers.PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **vision},
        text_config={"model_type": "gemma", **text},
        image_token_index=39,
    )
    model = transformers.PaliGemmaForConditionalGeneration(config)
    family = family_named("paligemma")
    assert type(family) is Family
    for part in ("vision_tower", "projector", "language_model", "head"):
        assert family.part_of(model, part)


def test_a_part_that_a_model_does_not_have_is_named() -> None:
    config = transformers.Qwen2Config(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1
    )
    model = transformers.Qwen2ForCausalLM(config)
    with pytest.raises(UsageError, match=r"'qwen2'.*vision_tower was not found.*head"):
        Family().part_of(model, "vision_tower")
