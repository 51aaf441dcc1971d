"""Students made of a vision encoder and a language model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

from limbeck.data.tokens import collate
from limbeck.errors import UsageError
from limbeck.models.compose import compose_model
from limbeck.models.load import load_model
from limbeck.models.sensitivity import check_image_sensitivity
from limbeck.models.tokenizer import chat_template, train_tokenizer
from limbeck.recipe.sections import Compose, ModelSection
from limbeck.records import ImageFile, Sample

TEXTS = ("Describe the picture.", "a red square on a white wall")
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|unknown|>")
TEXT_ONLY = (
    "{% for m in messages %}<|im_start|>{{ m['role'] + '\n' + m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3}
VISION |= {"num_attention_heads": 2, "patch_size": 16, "image_size": 64}
LANGUAGE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
LANGUAGE |= {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 256}


def siglip(folder: Path) -> None:
    """A whole SigLIP checkpoint, text tower included, as published ones are."""
    text = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    text |= {"num_attention_heads": 2, "vocab_size": 50}
    config = transformers.SiglipConfig(vision_config=VISION, text_config=text)
    transformers.SiglipModel(config).save_pretrained(folder)
    size = {"height": 64, "width": 64}
    transformers.SiglipImageProcessor(size=size).save_pretrained(folder)


def clip(folder: Path) -> None:
    transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**VISION)).save_pretrained(folder)
    size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    transformers.CLIPImageProcessor(**size).save_pretrained(folder)


def dinov2(folder: Path) -> None:
    sizes = {k: v for k, v in VISION.items() if k != "intermediate_size"}
    config = transformers.Dinov2WithRegistersConfig(**sizes, num_register_tokens=2)
    transformers.Dinov2WithRegistersModel(config).save_pretrained(folder)
    size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    transformers.BitImageProcessor(**size).save_pretrained(folder)


def language(folder: Path, kind: str, *, template: str | None, spare_rows: int, tied: bool) -> None:
    tokenizer = train_tokenizer(TEXTS, "word", 64, special_tokens=SPECIAL, template=template or "")
    tokenizer.chat_template = template
    rows = len(tokenizer) + spare_rows
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=rows, tie_word_embeddings=tied, eos_token_id=tokenizer.eos_token_id, **LANGUAGE
    )
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((siglip, "Qwen2", 8, True), id="siglip-qwen2-tied"),
        pytest.param((clip, "Llama", 0, False), id="clip-llama"),
        pytest.param((dinov2, "Llama", 0, True), id="dinov2-llama-tied"),
    ],
)
def composed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """Folders of the vision encoder, the language model, and what was made of them."""
    make_vision, kind, spare_rows, tied = request.param
    root = tmp_path_factory.mktemp("composed")
    torch.manual_seed(0)
    make_vision(root / "vision")
    language(root / "language", kind, template=TEXT_ONLY, spare_rows=spare_rows, tied=tied)
    parts = Compose(vision=str(root / "vision"), language=str(root / "language"))
    summary = compose_model(parts, 0, root / "model")
    assert summary["new_parameters"] + summary["inherited_parameters"] == summary["parameters"]
    return root / "vision", root / "language", root / "model"


def sample_in(folder: Path) -> Sample:
    pixels = torch.randint(0, 255, (90, 50, 3), generator=torch.Generator().manual_seed(0)).byte()
    Image.fromarray(pixels.numpy()).save(folder / "a.png")
    parts = [{"type": "image"}, {"type": "text", "text": "Describe the picture."}]
    message = {"role": "user", "content": parts}
    return Sample("a", "train", (message,), (ImageFile("a.png", "", 50, 90),))


def test_it_is_a_llava_model_that_sees_and_answers(
    composed: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    loaded = load_model(ModelSection(model=str(composed[2])), device="cpu")
    assert type(loaded.base) is transformers.LlavaForConditionalGeneration
    assert type(loaded.processor) is transformers.LlavaProcessor
    sample = sample_in(tmp_path)
    item = loaded.encoder.encode(sample, tmp_path, "a red square")
    assert item.visual_tokens == loaded.base.config.image_seq_length
    assert loaded.tokenizer.decode(loaded.encoder.end_ids) == "<|im_end|>"
    assert loaded.encoder.render(sample.messages) == (
        "<|im_start|>user\n<image>\nDescribe the picture.<|im_end|>\n<|im_start|>assistant\n"
    )
    loaded.verify_head(collate([item], pad_id=loaded.encoder.pad_id, side="right"))
    assert check_image_sensitivity(loaded, sample, tmp_path, "a red square") > 0
    assert len(loaded.generate([item], max_new_tokens=3)) == 1


def test_the_vision_tower_answers_as_the_original_encoder(
    composed: tuple[Path, Path, Path],
) -> None:
    original = transformers.AutoModel.from_pretrained(composed[0])
    original = getattr(original, "vision_model", original)
    model = transformers.AutoModelForImageTextToText.from_pretrained(composed[2])
    pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = original(pixels, output_hidden_states=True).hidden_states[-2]
        found = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2]
    assert torch.equal(found, expected)


def test_the_language_model_answers_as_the_original(composed: tuple[Path, Path, Path]) -> None:
    original = transformers.AutoModelForCausalLM.from_pretrained(composed[1])
    model = transformers.AutoModelForImageTextToText.from_pretrained(composed[2])
    rows = original.get_output_embeddings().weight.shape[0]
    ids = torch.tensor([[1, 5, 6, 7, 2]])
    with torch.no_grad():
        expected, found = original(ids).logits, model(input_ids=ids).logits[..., :rows]
    torch.testing.assert_close(found, expected)


def test_the_whole_picture_is_seen_where_the_encoder_would_crop(
    composed: tuple[Path, Path, Path],
) -> None:
    processor = transformers.AutoProcessor.from_pretrained(composed[2])
    picture = Image.new("RGB", (64, 128))
    picture.paste((255, 255, 255), (0, 0, 64, 30))  # above any centre crop
    blank = Image.new("RGB", (64, 128))
    seen, nothing = (
        processor.image_processor(image, return_tensors="pt")["pixel_values"]
        for image in (picture, blank)
    )
    assert seen.shape[-2:] == (64, 64)
    assert not torch.equal(seen, nothing)


def test_the_seed_decides_the_projector_alone(
    composed: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    parts = Compose(vision=str(composed[0]), language=str(composed[1]))
    for name, seed in (("same", 0), ("other", 1)):
        compose_model(parts, seed, tmp_path / name)
    first = (composed[2] / "model.safetensors").read_bytes()
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == first
    one, other = (
        transformers.AutoModelForImageTextToText.from_pretrained(folder).state_dict()
        for folder in (composed[2], tmp_path / "other")
    )
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    assert differing
    assert all("multi_modal_projector" in name for name in differing)


@pytest.mark.parametrize(
    ("template", "given", "error"),
    [
        (None, None, "no chat template"),
        (None, "{{ 'always the same' }}", "does not show"),
        (None, chat_template("<image>\n"), None),
    ],
)
def test_a_template_that_shows_no_pictures_is_refused(
    template: str | None, given: str | None, error: str | None, tmp_path: Path
) -> None:
    siglip(tmp_path / "vision")
    language(tmp_path / "language", "Qwen2", template=template, spare_rows=8, tied=True)
    parts = Compose(
        vision=str(tmp_path / "vision"), language=str(tmp_path / "language"), chat_template=given
    )
    if error is None:
        compose_model(parts, 0, tmp_path / "model")
        return
    with pytest.raises(UsageError, match=error):
        compose_model(parts, 0, tmp_path / "model")


@pytest.mark.parametrize("swap", [True, False])
def test_parts_in_the_wrong_place_are_refused(swap: bool, tmp_path: Path) -> None:
    def build(name: str, make: Callable[[Path], None]) -> str:
        make(tmp_path / name)
        return str(tmp_path / name)

    text = build(
        "language", lambda f: language(f, "Qwen2", template=TEXT_ONLY, spare_rows=8, tied=True)
    )
    pictures = build("vision", siglip)
    parts = Compose(vision=text if swap else pictures, language=text if swap else pictures)
    with pytest.raises(UsageError):
        compose_model(parts, 0, tmp_path / "model")
