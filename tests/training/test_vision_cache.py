"""Cached vision features: the same training without the tower, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from limbeck import pipeline
from limbeck.data.samples import read_samples
from limbeck.errors import UsageError
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.models import vision_features
from limbeck.models.adapt import prepare_for_training
from limbeck.models.family import family_named
from limbeck.models.load import load_model
from limbeck.models.vocabulary import shared_vocabulary
from limbeck.recipe.sections import Adapter, ModelSection, Training
from limbeck.records import Sample
from limbeck.training import vision_cache
from limbeck.training.batches import Example
from limbeck.training.examples import EncodedExamples
from limbeck.training.job import Job
from limbeck.training.loop import _Loop
from test_pipeline import tiny_recipe

FROZEN = ("vision_tower", "projector")


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            folder = tmp_path_factory.mktemp(family) / "model"
            made[family] = family_named(family).tiny(folder, context_tokens=4096)
        return made[family]

    return make


@pytest.fixture
def make_job(
    screens: Path, checkpoints: Callable[[str], Path], tmp_path: Path
) -> Callable[..., Job]:
    def make(
        family: str = "qwen2_vl",
        *,
        cached: bool = True,
        output: str = "run",
        adapter: Adapter | None = None,
        freeze: Sequence[Any] = FROZEN,
        samples: Sequence[Sample] | None = None,
        **options: Any,
    ) -> Job:
        torch.manual_seed(0)
        section = ModelSection(model=str(checkpoints(family)), max_pixels=56 * 56 * 4)
        student = load_model(section, device="cpu")
        prepare_for_training(
            student,
            adapter=adapter,
            freeze=freeze,
            gradient_checkpointing=options.get("gradient_checkpointing", False),
        )
        rows = student.model.get_output_embeddings().weight.shape[0]
        vocabulary = shared_vocabulary(student.tokenizer, student.tokenizer, rows, rows)
        samples = samples or read_samples(screens, "train")[:6]
        examples = [
            Example(s, s.references[0][: 10 + 7 * i], "teacher") for i, s in enumerate(samples)
        ]
        fields = {"steps": 2, "samples_per_step": 6, "samples_per_micro_batch": 3}
        training = Training.model_validate(
            {**fields, "precision": "fp32", "cache_vision_features": cached, **options}
        )
        folder = tmp_path / output
        folder.mkdir(exist_ok=True)
        losses = [CrossEntropy()]
        return Job(folder, student, vocabulary, examples, screens, losses, training, 5, "test")

    return make


def loss_and_gradients(job: Job) -> tuple[float, dict[str, Tensor]]:
    loop = _Loop(job)
    sums, _ = loop._gradients(0)
    assert (loop.vision is not None) == job.training.cache_vision_features
    return sums.item(), {n: p.grad for n, p in loop.trainable.items() if p.grad is not None}


def with_another_image(samples: Sequence[Sample]) -> list[Sample]:
    return [replace(samples[0], images=samples[1].images), *samples[1:]]


@pytest.mark.parametrize(
    "family",
    ["qwen2_vl", "qwen2_5_vl", "llava", "llava_next", "llava_onevision", "idefics3", "smolvlm"],
)
def test_losses_and_gradients_are_those_of_the_pixels(make_job: Any, family: str) -> None:
    options = {"adapter": Adapter(rank=2), "freeze": ()}
    plain, expected = loss_and_gradients(make_job(family, cached=False, **options))
    cached, gradients = loss_and_gradients(make_job(family, **options))
    assert cached == pytest.approx(plain, rel=1e-6)
    assert gradients.keys() == expected.keys()
    assert all(g.abs().sum() > 0 for n, g in expected.items() if "lora_B" in n)
    norm = torch.stack([g.norm() for g in expected.values()]).norm()
    apart = torch.stack([(gradients[n] - expected[n]).norm() for n in expected]).norm()
    assert apart <= 1e-6 * norm


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"workers": 1}])
def test_it_goes_with_other_ways_to_train(make_job: Any, options: dict[str, Any]) -> None:
    plain, expected = loss_and_gradients(make_job(cached=False))
    cached, gradients = loss_and_gradients(make_job(**options))
    assert cached == pytest.approx(plain, rel=1e-6)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-4, atol=1e-6)


def test_bf16_autocast_computes_the_features_as_training_would(make_job: Any) -> None:
    plain, _ = loss_and_gradients(make_job(cached=False, precision="bf16"))
    cached, _ = loss_and_gradients(make_job(precision="bf16"))
    assert cached == pytest.approx(plain, rel=2e-3)


def test_no_step_sees_pixels_or_runs_the_tower(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job()
    loop = _Loop(job)

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("a cached sample needs no picture")

    monkeypatch.setattr(type(job.student.encoder), "_picture", forbidden)
    job.student.base.base_model.visual.register_forward_pre_hook(forbidden)
    loop._gradients(0)
    item = loop.encoded[0]
    assert not [name for name in item.features if name.startswith("pixel")]


def test_the_cached_example_has_the_tokens_of_the_plain_one(make_job: Any) -> None:
    job = make_job()
    cached = _Loop(job).encoded
    plain = EncodedExamples(job.examples, job.student.encoder, job.data)
    for index in range(len(plain)):
        one, other = cached[index], plain[index]
        assert torch.equal(one.input_ids_L, other.input_ids_L)
        assert one.answer_start == other.answer_start
        assert one.visual_tokens == other.visual_tokens
        assert one.aligned.keys() == other.aligned.keys()
        for name, tensor_L in other.aligned.items():
            assert torch.equal(one.aligned[name], tensor_L)


def test_another_picture_changes_the_loss_also_from_the_cache(make_job: Any, screens: Path) -> None:
    samples = read_samples(screens, "train")[:6]
    one, _ = loss_and_gradients(make_job(output="one"))
    other, _ = loss_and_gradients(make_job(output="other", samples=with_another_image(samples)))
    assert abs(one - other) > 1e-6 * abs(one)


def test_the_student_writes_from_cached_features_what_it_writes_from_pixels(make_job: Any) -> None:
    job = make_job()
    cached = _Loop(job).encoded
    plain = EncodedExamples(job.examples, job.student.encoder, job.data)
    answers = [
        job.student.generate([source[i] for i in range(4)], max_new_tokens=8, temperature=1.0)
        for source in (cached, plain)
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("damage", ["none", "cut", "unfinished"])
def test_a_run_that_goes_on_computes_only_what_is_not_whole(
    make_job: Any, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    monkeypatch.setattr(vision_cache, "SAMPLES_PER_BLOCK", 2)
    expected, _ = loss_and_gradients(make_job())
    job = make_job()
    block = job.output / "vision_features" / "block-00001.safetensors"
    if damage == "cut":
        block.write_bytes(block.read_bytes()[:-40])
    if damage == "unfinished":
        block.with_suffix(".json").unlink()
    computed: list[int] = []

    def counting(loaded: Any, item: Any) -> Tensor:
        computed.append(item.visual_tokens)
        return vision_features.features_of(loaded, item)

    monkeypatch.setattr(vision_cache, "features_of", counting)
    loss, _ = loss_and_gradients(job)
    assert loss == expected
    assert len(computed) == (0 if damage == "none" else 2)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"freeze": ()}, "vision_tower, projector"),
        ({"freeze": ("vision_tower",)}, "projector"),
        ({"freeze": ("projector",)}, "vision_tower"),
        ({"freeze": (), "adapter": Adapter(rank=2, parts=("vision_tower",))}, "vision_tower"),
    ],
)
def test_a_tower_or_projector_that_is_trained_is_refused(
    make_job: Any, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=rf"changes the features of pictures \({named}\).*freeze"):
        _Loop(make_job(**options))


def test_a_weight_of_neither_part_that_changes_the_features_is_named(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job("llava", freeze=("vision_tower",))
    family = type(job.student.family)
    monkeypatch.setattr(family, "paths", {"vision_tower": family.paths["vision_tower"]})
    with pytest.raises(UsageError, match=r"\(model\.multi_modal_projector\.linear_1\.bias"):
        _Loop(job)


def test_a_family_with_features_of_several_layers_is_refused(make_job: Any) -> None:
    with pytest.raises(UsageError, match="type qwen3_vl hand features of several layers"):
        _Loop(make_job("qwen3_vl", adapter=Adapter(rank=2), freeze=()))


def test_features_that_are_not_enough_are_refused(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = vision_features.features_of
    monkeypatch.setattr(vision_features, "features_of", lambda *a: original(*a) * 1.1)
    with pytest.raises(UsageError, match="hidden states differ"):
        _Loop(make_job())


def recipe_of(work: Path, **changes: Any) -> Any:
    options = {
        "seeds": [0],
        "evaluate__models": ["student"],
        "benchmark__models": None,
        "student__freeze": list(FROZEN),
        "training__cache_vision_features": True,
    }
    return tiny_recipe(work, **{**options, **changes})


def test_a_finished_stage_keeps_the_plain_student_and_no_cache(tmp_path: Path) -> None:
    folders = []
    for cached in (True, False):
        recipe = recipe_of(tmp_path / "work", training__cache_vision_features=cached)
        result = pipeline.run(recipe, until="train")
        folders.append(Path(result.stages[-1]["folder"]))
    assert folders[0] != folders[1]
    cached, plain = (load_file(folder / "student" / "model.safetensors") for folder in folders)
    assert cached.keys() == plain.keys()
    for name, weight in plain.items():
        torch.testing.assert_close(cached[name], weight, rtol=1e-3, atol=1e-4)
    assert not (folders[0] / "vision_features").exists()
    summary = json.loads((folders[0] / "MANIFEST.json").read_text())["summary"]
    facts = summary["vision_features"]
    assert facts["samples"] == 8
    assert facts["mebibytes"] > 0


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"student__freeze": ["vision_tower"]}, r"\(projector\)"),
        (
            {"student__freeze": [], "student__adapter": {"parts": ["vision_tower"]}},
            r"\(vision_tower\)",
        ),
    ],
)
def test_the_plan_already_refuses_a_trained_tower(
    tmp_path: Path, changes: dict[str, Any], named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        pipeline.build_plan(recipe_of(tmp_path, **changes))
