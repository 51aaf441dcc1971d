"""What a teacher is told beside the sample: system prompt, gold examples, a fine-tuned adapter."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from limbeck.data.samples import read_samples
from limbeck.errors import DataError, UsageError
from limbeck.recipe.sections import ModelSection
from limbeck.records import Sample
from limbeck.teachers import Answer, Decoding, OpenTeacher, Request
from limbeck.teachers.specialised import Prompting, specialised
from limbeck.teachers.transformers import Transformers


@pytest.fixture(scope="module")
def samples(screens: Path) -> list[Sample]:
    return read_samples(screens, "train")


def teacher(model: Path | str = "somewhere", **fields: Any) -> Transformers:
    return Transformers.model_validate({"backend": "transformers", "model": str(model), **fields})


def prompting(screens: Path, **fields: Any) -> Prompting:
    return Prompting.of(teacher(**fields), screens)


def test_the_system_prompt_goes_before_the_samples_own(
    screens: Path, samples: list[Sample]
) -> None:
    asked = prompting(screens, system_prompt="Be brief.").ask(samples[0])
    assert asked.messages[0] == {
        "role": "system",
        "content": [{"type": "text", "text": "Be brief."}],
    }
    assert asked.messages[1:] == samples[0].messages
    assert (asked.id, asked.images, asked.references) == (
        samples[0].id,
        samples[0].images,
        samples[0].references,
    )
    own = {"role": "system", "content": [{"type": "text", "text": "Own."}]}
    both = replace(samples[0], messages=(own, *samples[0].messages))
    system, *turns = prompting(screens, system_prompt="Be brief.").ask(both).messages
    assert "".join(part["text"] for part in system["content"]) == "Be brief.\n\nOwn."
    assert tuple(turns) == samples[0].messages


def test_examples_are_earlier_turns_with_their_pictures_and_never_the_sample_itself(
    screens: Path, samples: list[Sample]
) -> None:
    rewrite = prompting(screens, few_shot={"count": 2})
    ids = rewrite.key()["examples"]
    known = {sample.id: sample for sample in samples}
    for sample in samples:
        asked = rewrite.ask(sample)
        roles = [turn["role"] for turn in asked.messages]
        assert roles == ["user", "assistant", "user", "assistant", "user"]
        assert asked.messages[-1:] == sample.messages
        assert len(asked.images) == 3
        assert asked.images[-1] == sample.images[0]
        answers = [turn["content"][0]["text"] for turn in asked.messages if turn["role"] != "user"]
        shown = {s.id for s in samples if s.references[0] in answers}
        assert sample.id not in shown
        if sample.id not in ids:
            assert answers == [known[i].references[0] for i in ids]
        assert all((screens / image.path).is_file() for image in asked.images)


def test_a_sample_with_the_same_picture_is_not_shown(screens: Path, samples: list[Sample]) -> None:
    rewrite = prompting(screens, few_shot={"ids": [samples[3].id, samples[4].id]})
    twin = replace(samples[0], images=samples[3].images)
    asked = rewrite.ask(twin)
    assert len(asked.images) == 2
    assert asked.messages[1]["content"][0]["text"] == samples[4].references[0]


def test_the_draw_follows_the_seed_and_the_key_follows_the_content(
    screens: Path, samples: list[Sample]
) -> None:
    one, same, other = (
        prompting(screens, few_shot={"count": 3, "seed": seed}).key() for seed in (0, 0, 1)
    )
    assert one == same
    assert one["examples"] != other["examples"]
    listed = prompting(screens, few_shot={"ids": [samples[0].id]})
    changed = replace(listed, examples=(replace(samples[0], references=("another",)),))
    assert listed.key() != changed.key()
    assert prompting(screens).key() == {}


@pytest.mark.parametrize(
    ("few_shot", "words"),
    [
        ({"count": 24}, "need more than the 24 gold answers"),
        ({"ids": ["nobody"]}, "no sample 'nobody'"),
    ],
)
def test_examples_that_are_not_there_are_an_error(
    screens: Path, few_shot: dict[str, Any], words: str
) -> None:
    with pytest.raises(DataError, match=words):
        prompting(screens, few_shot=few_shot)


class Recorder(OpenTeacher):
    """Answers with the number of pictures that it was shown."""

    def generate(self, samples: Sequence[Sample], decoding: Decoding) -> list[Answer]:
        return [Answer(str(len(sample.images)), 1, True) for sample in samples]

    def stream(self, batches: Any, decoding: Decoding, *, workers: int = 0) -> Any:
        for batch in reversed(list(batches)):  # groups may come in any order
            yield batch, self.generate([request.sample for request in batch], decoding)


def test_a_stream_gives_back_the_requests_that_were_made(
    screens: Path, samples: list[Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Transformers, "open", lambda *_, **__: Recorder())
    session = specialised(teacher(few_shot={"count": 2}), screens).open(screens, device="cpu")
    batches = [[Request(samples[0]), Request(samples[1])], [Request(samples[0], number=1)]]
    found = list(session.stream(batches, Decoding(4)))
    assert [requests for requests, _ in found] == batches[::-1]
    assert {answer.text for _, answers in found for answer in answers} == {"3"}


def test_answers_and_scores_are_those_of_the_rewritten_sample(
    screens: Path, tiny_model: Path, samples: list[Sample]
) -> None:
    fields = {"system_prompt": "List the elements.", "few_shot": {"count": 2}}
    own = specialised(teacher(tiny_model, **fields), screens).open(screens, device="cpu")
    plain = teacher(tiny_model).open(screens, device="cpu")
    asked = [Prompting.of(teacher(**fields), screens).ask(sample) for sample in samples[:3]]
    texts = [sample.references[0] for sample in samples[:3]]
    ours, expected, without = (
        torch.cat([scored.logits_NV for scored in found])
        for found in (
            own.score(samples[:3], texts),
            plain.score(asked, texts),
            plain.score(samples[:3], texts),
        )
    )
    assert torch.equal(ours, expected)
    assert (ours - without).abs().max() > 1e-3
    assert own.generate(samples[:3], Decoding(8)) == plain.generate(asked, Decoding(8))
    assert own.visual_tokens(samples[0]) == plain.visual_tokens(samples[0])


def test_examples_that_do_not_fit_the_context_are_refused(
    screens: Path, tiny_model: Path, samples: list[Sample]
) -> None:
    fields = {"few_shot": {"count": 4}, "context_tokens": 100}
    session = specialised(teacher(tiny_model, **fields), screens).open(screens, device="cpu")
    plain = teacher(tiny_model, context_tokens=100).open(screens, device="cpu")
    plain.generate(samples[:1], Decoding(2))
    with pytest.raises(DataError, match="the context holds 100"):
        session.generate(samples[:1], Decoding(2))


def test_a_prompt_changes_the_identity_of_every_backend(tiny_model: Path) -> None:
    assert teacher(tiny_model).prompting_fields() == {}
    plain, told = teacher(tiny_model), teacher(tiny_model, system_prompt="Be brief.")
    assert plain.identity() != told.identity()


def adapter(folder: Path, model: Path, *, scale: float) -> Path:
    """A LoRA adapter as peft saves it, with weights that are not zero."""
    from peft import LoraConfig, get_peft_model

    from limbeck.models.load import load_model

    torch.manual_seed(1)
    base = load_model(ModelSection(model=str(model)), device="cpu").model
    wrapped = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj", "v_proj"]))
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=scale)
    wrapped.save_pretrained(folder)
    return folder


def test_an_adapter_is_merged_when_the_teacher_is_opened(
    screens: Path, tiny_model: Path, samples: list[Sample], tmp_path: Path
) -> None:
    from peft import PeftModel

    from limbeck.models.load import load_model

    path = adapter(tmp_path / "adapter", tiny_model, scale=0.5)
    section = ModelSection(model=str(tiny_model), adapter_path=str(path))
    loaded = load_model(section, device="cpu")
    assert not isinstance(loaded.model, PeftModel)
    base = load_model(ModelSection(model=str(tiny_model)), device="cpu").model
    theirs = PeftModel.from_pretrained(base, path).merge_and_unload().state_dict()
    ours = loaded.model.state_dict()
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    text = samples[0].references[:1]
    adapted, plain = (
        teacher(tiny_model, **fields).open(screens, device="cpu").score(samples[:1], text)[0]
        for fields in ({"adapter_path": str(path)}, {})
    )
    assert (adapted.logits_NV - plain.logits_NV).abs().max() > 1e-3


def test_an_adapters_content_is_part_of_the_identity(tiny_model: Path, tmp_path: Path) -> None:
    one = adapter(tmp_path / "one", tiny_model, scale=0.5)
    same, other = tmp_path / "same", adapter(tmp_path / "other", tiny_model, scale=0.6)
    one.rename(same)
    identities = [teacher(tiny_model, adapter_path=str(p)).identity() for p in (same, other)]
    again = teacher(tiny_model, adapter_path=str(same.rename(one))).identity()
    assert identities[0] == again, "its place does not matter"
    assert identities[0] != identities[1]
    assert json.loads(json.dumps(again)) == again


def test_a_students_start_may_be_an_adapted_model(tiny_model: Path, tmp_path: Path) -> None:
    from limbeck.models.adapt import prepare_for_training
    from limbeck.models.load import load_model
    from limbeck.recipe.sections import Adapter, Student

    path = adapter(tmp_path / "adapter", tiny_model, scale=0.5)
    section = Student(model=str(tiny_model), adapter_path=str(path), adapter=Adapter(rank=2))
    loaded = load_model(section, device="cpu")
    start = {name: weight.clone() for name, weight in loaded.model.state_dict().items()}
    prepare_for_training(loaded, adapter=section.adapter)
    loaded.save(tmp_path / "saved")
    saved = load_model(ModelSection(model=str(tmp_path / "saved")), device="cpu").model
    for name, weight in saved.state_dict().items():
        assert torch.allclose(weight, start[name], atol=1e-6), name


@pytest.mark.parametrize("fault", ["nothing", "pickled", "foreign", "torn"])
def test_what_is_no_fitting_adapter_is_refused(
    screens: Path, tiny_model: Path, tmp_path: Path, fault: str
) -> None:
    path = adapter(tmp_path / "adapter", tiny_model, scale=0.5)
    weights = path / "adapter_model.safetensors"
    words = "adapter cannot be put on the model"
    if fault == "nothing":
        path = tmp_path / "empty"
        path.mkdir()
        words = "has no adapter_config"
    elif fault == "pickled":
        weights.rename(path / "adapter_model.bin")
        words = "could run code"
    elif fault == "foreign":
        config = json.loads((path / "adapter_config.json").read_text())
        config["target_modules"] = ["q_proj"]
        (path / "adapter_config.json").write_text(json.dumps(config))
        words = "tensors do not fit"
    else:
        weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(UsageError, match=words) as raised:
        teacher(tiny_model, adapter_path=str(path)).open(screens, device="cpu")
    assert "\n" not in str(raised.value)


def test_beside_quantised_weights_an_adapter_stays_active_and_is_not_trained(
    screens: Path, tiny_model: Path, samples: list[Sample], tmp_path: Path
) -> None:
    """As quantised weights get it, here on plain ones: with merged ones it answers alike."""
    from limbeck.data.tokens import collate
    from limbeck.models.adapt import prepare_for_training
    from limbeck.models.load import load_model
    from limbeck.models.weights import with_given_adapter
    from limbeck.recipe.sections import Adapter

    path = adapter(tmp_path / "adapter", tiny_model, scale=0.5)
    merged = load_model(ModelSection(model=str(tiny_model), adapter_path=str(path)), device="cpu")
    active = load_model(ModelSection(model=str(tiny_model)), device="cpu")
    active.model = with_given_adapter(active.model, str(path), merged=False).eval()
    item = merged.encoder.encode(samples[0], screens, samples[0].references[0])
    inputs = collate([item], pad_id=merged.encoder.pad_id, side="right").inputs
    with torch.no_grad():
        ours, theirs = (
            one.base(**one.place(inputs), use_cache=False).logits for one in (merged, active)
        )
    assert (ours - theirs).abs().max() < 1e-3
    with pytest.raises(UsageError, match="adapter is not merged"):
        prepare_for_training(active, adapter=Adapter(rank=2))


def test_whatever_a_session_can_be_asked_is_asked_of_the_one_inside() -> None:
    """A method that is added to the protocol must not fall back to the base class here."""
    from limbeck.teachers import specialised as module

    asked = {name for name in vars(OpenTeacher) if not name.startswith("_")}
    by_others = {"left_of"}  # follows from `batched`
    assert asked - by_others <= set(vars(module._Open))
