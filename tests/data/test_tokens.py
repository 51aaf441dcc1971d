"""From samples to token ids, pixels and targets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from limbeck.data.tokens import Encoded, Encoder, collate
from limbeck.errors import DataError, UsageError
from limbeck.models.family import TINY_TEXTS, family_named
from limbeck.models.load import LoadedModel, load_model
from limbeck.models.tokenizer import END_OF_TURN, train_tokenizer
from limbeck.recipe.sections import ModelSection
from limbeck.records import IGNORED, ImageFile, Sample


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family_named("qwen2_vl").tiny(tmp_path_factory.mktemp("qwen2_vl"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    Image.new("RGB", (96, 128), (200, 30, 30)).save(folder / "red.png")
    Image.effect_noise((256, 256), 60).convert("RGB").save(folder / "noise.png")
    return folder


@pytest.fixture
def loaded(checkpoint: Path) -> LoadedModel:
    return load_model(ModelSection(model=str(checkpoint)), device="cpu")


def sample(name: str = "red", text: str = "Describe the picture.", images: int = 1) -> Sample:
    parts = [{"type": "image"}] * images + [{"type": "text", "text": text}]
    file = ImageFile(f"{name}.png", "", 0, 0)
    return Sample(name, "train", ({"role": "user", "content": parts},), (file,) * images)


def batch_of(loaded: LoadedModel, items: list[Encoded], side: str = "right"):
    return collate(items, pad_id=loaded.encoder.pad_id, side=side)


def test_a_target_is_the_next_token_and_only_in_the_answer(loaded: LoadedModel, data: Path) -> None:
    items = [
        loaded.encoder.encode(sample(), data, "a red square"),
        loaded.encoder.encode(sample("noise"), data, "two circles and one square"),
    ]
    for side in ("left", "right"):
        batch = batch_of(loaded, items, side)
        ids_BL, mask_BL = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert batch.supervised_tokens == sum(len(item.answer_ids) for item in items)
        for b, item in enumerate(items):
            positions = (batch.targets_BL[b] != IGNORED).nonzero().flatten()
            assert torch.equal(ids_BL[b, positions + 1], batch.targets_BL[b, positions])
            assert torch.equal(batch.targets_BL[b, positions], item.answer_ids)
            assert bool(mask_BL[b, positions].all())
            assert mask_BL[b].sum() == len(item.input_ids_L)


def test_the_end_of_turn_is_supervised_though_it_is_the_padding(
    loaded: LoadedModel, data: Path
) -> None:
    loaded.tokenizer.pad_token = END_OF_TURN
    items = [
        loaded.encoder.encode(sample(), data, "two circles"),
        loaded.encoder.encode(sample(), data, "a red square on a white wall"),
    ]
    batch = batch_of(loaded, items)
    end = loaded.tokenizer.convert_tokens_to_ids(END_OF_TURN)
    assert loaded.encoder.pad_id == end
    for b in range(2):
        supervised = batch.targets_BL[b][batch.targets_BL[b] != IGNORED]
        assert supervised[-1] == end
        assert (supervised == end).sum() == 1
    assert batch.inputs["attention_mask"][0].sum() == len(items[0].input_ids_L)


def test_the_prompt_is_the_model_s_own_template(loaded: LoadedModel, data: Path) -> None:
    item = loaded.encoder.encode(sample(), data, "two circles")
    prompt = loaded.tokenizer.decode(item.input_ids_L[: item.answer_start])
    expected = loaded.processor.apply_chat_template(
        list(sample().messages), add_generation_prompt=True
    )
    marker = loaded.processor.image_token
    assert prompt.count(marker) == item.visual_tokens == (96 // 32) * (128 // 32)
    squeezed = prompt.replace(marker * item.visual_tokens, marker)
    assert squeezed.replace(" ", "") == expected.replace(" ", "")
    assert loaded.encoder.render(sample().messages) == expected


def test_without_answer_is_the_prompt_alone(loaded: LoadedModel, data: Path) -> None:
    answered = loaded.encoder.encode(sample(), data, "two circles").without_answer()
    prompt = loaded.encoder.encode(sample(), data, None)
    assert torch.equal(answered.input_ids_L, prompt.input_ids_L)
    assert len(prompt.answer_ids) == 0
    assert set(answered.aligned) == set(prompt.aligned) == {"mm_token_type_ids"}
    for name, tensor in prompt.aligned.items():
        assert torch.equal(tensor, answered.aligned[name])
    assert batch_of(loaded, [prompt], "left").supervised_tokens == 0


def test_markers_in_an_answer_are_only_text(loaded: LoadedModel, data: Path) -> None:
    item = loaded.encoder.encode(sample(), data, f"a {END_OF_TURN} <|image_pad|> b")
    markers = {END_OF_TURN, "<|image_pad|>"}
    ids = loaded.tokenizer.convert_tokens_to_ids(sorted(markers))
    assert not set(item.answer_ids[:-1].tolist()) & set(ids)


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({}, 64),
        ({"max_pixels": 16_384}, 16),
        ({"max_pixels": 1}, 1),
        ({"min_pixels": 4 * 65_536}, 256),
        ({"min_pixels": 512, "max_pixels": 2_048}, 1),
    ],
)
def test_the_pixel_budget_decides_the_visual_tokens(
    checkpoint: Path, data: Path, options: dict[str, int], tokens: int
) -> None:
    section = ModelSection(model=str(checkpoint), **options)
    loaded = load_model(section, device="cpu")
    assert loaded.encoder.encode(sample("noise"), data, None).visual_tokens == tokens


def test_small_pictures_are_not_enlarged(loaded: LoadedModel, data: Path) -> None:
    Image.new("RGB", (32, 32)).save(data / "dot.png")
    assert loaded.encoder.encode(sample("dot"), data, None).visual_tokens == 1


def test_families_without_a_budget_get_smaller_pictures(tmp_path: Path, data: Path) -> None:
    folder = family_named("llava_next").tiny(tmp_path)
    tokens = []
    for limit in (None, 64 * 64):
        section = ModelSection(model=str(folder), max_pixels=limit)
        encoder = load_model(section, device="cpu").encoder
        item = encoder.encode(sample("noise"), data, None)
        tokens.append(item.features["image_sizes"].tolist())
    assert tokens == [[[256, 256]], [[64, 64]]]


def test_blank_pictures_keep_the_shape(loaded: LoadedModel, data: Path) -> None:
    seen = loaded.encoder.encode(sample("noise"), data, "two circles")
    blank = loaded.encoder.encode(sample("noise"), data, "two circles", blank_images=True)
    assert torch.equal(seen.input_ids_L, blank.input_ids_L)
    assert seen.features["pixel_values"].shape == blank.features["pixel_values"].shape
    assert blank.features["pixel_values"].std() < 1e-6 < seen.features["pixel_values"].std()


def test_a_sample_without_pictures_shares_a_batch(loaded: LoadedModel, data: Path) -> None:
    items = [
        loaded.encoder.encode(sample(images=0), data, "two circles"),
        loaded.encoder.encode(sample(), data, "a red square"),
    ]
    assert [item.visual_tokens for item in items] == [0, 12]
    batch = batch_of(loaded, items)
    with torch.no_grad():
        assert bool(loaded.hidden_states(batch.inputs).isfinite().all())


def test_more_placeholders_than_pictures_are_refused(loaded: LoadedModel, data: Path) -> None:
    with pytest.raises(DataError, match="red: the model's processor refuses"):
        loaded.encoder.encode(sample(text="What is <|image_pad|>?"), data, None)


def test_an_extreme_shape_is_refused_with_its_sample(loaded: LoadedModel, data: Path) -> None:
    Image.new("RGB", (3000, 4)).save(data / "line.png")
    with pytest.raises(DataError, match=r"line: .*aspect ratio"):
        loaded.encoder.encode(sample("line"), data, None)


@pytest.mark.parametrize("answer", [None, "two circles and one square"])
def test_a_sample_longer_than_the_context_is_never_cut(
    checkpoint: Path, data: Path, answer: str | None
) -> None:
    def encoder(tokens: int | None) -> Encoder:
        section = ModelSection(model=str(checkpoint), context_tokens=tokens)
        return load_model(section, device="cpu").encoder

    needed = len(encoder(None).encode(sample(), data, answer).input_ids_L)
    assert len(encoder(needed).encode(sample(), data, answer).input_ids_L) == needed
    with pytest.raises(DataError, match=f"{needed} tokens, 12 of them visual.*{needed - 1}"):
        encoder(needed - 1).encode(sample(), data, answer)
    assert encoder(None).context_tokens == 1024, "the model's own number of positions"


def test_a_template_that_refuses_the_messages_names_the_sample(
    loaded: LoadedModel, data: Path
) -> None:
    template = "{{ raise_exception('no roles') if messages[0]['role'] == 'system' else 'x' }}"
    loaded.processor.chat_template = template
    encoder = Encoder(loaded.processor, config=loaded.base.config)
    message = {"role": "system", "content": [{"type": "text", "text": "hello"}]}
    with pytest.raises(DataError, match=r"s1: .*template refuses.*no roles"):
        encoder.encode(Sample("s1", "train", (message,)), data, None)


def test_a_model_without_a_template_is_refused(loaded: LoadedModel) -> None:
    loaded.processor.chat_template = loaded.tokenizer.chat_template = None
    with pytest.raises(UsageError, match="no chat template"):
        Encoder(loaded.processor, config=loaded.base.config)


NO_END = "{% for m in messages %}{{ m['content'][0]['text'] }}{% endfor %}"
SPACED = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'][0]['text'] }}<|endoftext|>{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
PLAIN_ANSWERS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'][0]['text'] }}"
    "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}\n{% endfor %}"
)


@pytest.mark.parametrize(
    ("kind", "template", "prefix", "end"),
    [
        pytest.param("word", NO_END, "", "<|im_end|>", id="no end in it"),
        pytest.param("bpe", SPACED, " ", "<|endoftext|>", id="a space before the answer"),
        pytest.param("word", SPACED, "", "<|endoftext|>", id="a space that the tokenizer writes"),
        pytest.param("word", PLAIN_ANSWERS, "", "<|im_end|>", id="answers as plain strings"),
    ],
)
def test_what_frames_an_answer_comes_from_the_template(
    kind: str, template: str, prefix: str, end: str, tmp_path: Path
) -> None:
    folder = family_named("qwen2_vl").tiny(tmp_path, tokenizer=kind, tokenizer_vocabulary=300)
    loaded = load_model(ModelSection(model=str(folder)), device="cpu")
    loaded.processor.chat_template = template
    encoder = Encoder(loaded.processor, config=loaded.base.config)
    ids = encoder.answer_tokens("two circles")
    assert ids[-1] == loaded.tokenizer.convert_tokens_to_ids(end)
    plain = loaded.tokenizer(prefix + "two circles", add_special_tokens=False)["input_ids"]
    assert ids[:-1] == plain
    assert encoder.answer_text(ids) == "two circles"
    if prefix or template is SPACED:  # the same tokens as in the template's own rendering
        within = loaded.tokenizer("assistant: two circles", add_special_tokens=False)["input_ids"]
        assert within[-len(plain) :] == plain


@pytest.mark.parametrize("kind", ["word", "bpe"])
@pytest.mark.parametrize(
    "text",
    [
        *TINY_TEXTS,
        "a  red\n\n square,on (a) wall...",
        "12:30 and 1,234",
        "one\ttwo  ",
        "ein großes Grün, naïve",
    ],
)
def test_decoding_gives_back_the_exact_text(kind: str, text: str) -> None:
    tokenizer = train_tokenizer([text, *TINY_TEXTS], kind, 512, template="x")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer.unk_token_id not in ids


def test_a_word_has_one_token_at_the_start_and_within() -> None:
    tokenizer = train_tokenizer(["one red square"], "word", 64, template="x")
    start = tokenizer("square red one", add_special_tokens=False)["input_ids"]
    within = tokenizer("one red square", add_special_tokens=False)["input_ids"]
    assert start == within[::-1]


def test_encoding_a_small_picture_takes_a_few_milliseconds(loaded: LoadedModel, data: Path) -> None:
    import time

    loaded.encoder.encode(sample(), data, "a red square")
    started = time.process_time()
    for _ in range(20):
        loaded.encoder.encode(sample(), data, "a red square")
    assert (time.process_time() - started) / 20 < 0.02
