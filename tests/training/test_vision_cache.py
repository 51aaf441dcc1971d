"""Cached vision features: the same training without the tower, or a refusal."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from limbeck import pipeline
from limbeck.data import tokens
from limbeck.data.samples import read_samples
from limbeck.errors import DataError, UsageError
from limbeck.losses.cross_entropy import CrossEntropy
from limbeck.models import vision_features
from limbeck.models.adapt import prepare_for_training
from limbeck.models.family import family_named, family_names
from limbeck.models.load import load_model
from limbeck.models.vocabulary import shared_vocabulary
from limbeck.recipe.sections import Adapter, ModelSection, Training
from limbeck.records import Sample
from limbeck.training import feature_coding, vision_cache
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
        cached: bool | str = True,
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
    assert (loop.vision is not None) == bool(job.training.cache_vision_features)
    return sums.item(), {n: p.grad for n, p in loop.trainable.items() if p.grad is not None}


def with_another_image(samples: Sequence[Sample]) -> list[Sample]:
    return [replace(samples[0], images=samples[1].images), *samples[1:]]


@pytest.mark.parametrize("family", family_names())
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


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"workers": 2}])
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


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
def test_the_student_writes_from_cached_features_what_it_writes_from_pixels(
    make_job: Any, family: str
) -> None:
    job = make_job(family)
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
    monkeypatch.setattr(vision_cache, "GROUPS_PER_BLOCK", 2)
    expected, _ = loss_and_gradients(make_job())
    job = make_job()
    block = job.output / "vision_features" / "block-00001.safetensors"
    if damage == "cut":
        block.write_bytes(block.read_bytes()[:-40])
    if damage == "unfinished":
        block.with_suffix(".json").unlink()
    computed: list[int] = []

    def counting(loaded: Any, items: Any) -> Any:
        computed.extend(item.visual_tokens for item in items)
        return vision_features.features_of(loaded, items)

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


def test_a_deep_stack_is_cached_whole_or_refused(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job("qwen3_vl")
    item = _Loop(job).encoded[0]
    depth = len(job.student.base.config.vision_config.deepstack_visual_indexes)
    names = [n for n in item.features if n.startswith(vision_features.DEEP)]
    assert len(names) == depth > 0
    original = vision_features.features_of

    def shallow(*given: Any) -> Any:
        return [{n: rows * (n not in names) for n, rows in one.items()} for one in original(*given)]

    monkeypatch.setattr(vision_features, "features_of", shallow)
    with pytest.raises(UsageError, match=r"type qwen3_vl do not give .*hidden states differ"):
        _Loop(make_job("qwen3_vl", output="other"))


def test_features_that_are_not_enough_are_refused(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = vision_features.features_of

    def louder(*given: Any) -> Any:
        return [{n: rows * 1.1 for n, rows in one.items()} for one in original(*given)]

    monkeypatch.setattr(vision_features, "features_of", louder)
    with pytest.raises(UsageError, match="hidden states differ"):
        _Loop(make_job())


def test_a_model_that_cannot_take_what_the_tower_gives_is_refused_with_the_reason(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = vision_features.features_of

    def fewer(*given: Any) -> Any:
        return [{n: rows[1:] for n, rows in one.items()} for one in original(*given)]

    monkeypatch.setattr(vision_features, "features_of", fewer)
    with pytest.raises(UsageError, match=r"qwen2_vl do not run from .*set it to false"):
        _Loop(make_job())


def blocks_of(job: Job) -> list[Path]:
    return sorted((job.output / "vision_features").glob("*.safetensors"))


def test_features_are_kept_in_the_precision_in_which_they_are_computed(make_job: Any) -> None:
    for precision, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        job = make_job(output=precision, precision=precision)
        item = _Loop(job).encoded[0]
        assert item.features[vision_features.FEATURES].dtype == dtype
        (block,) = blocks_of(job)
        assert load_file(block)["rows/0/vision_features"].dtype == dtype


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen3_vl"])
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_int8_takes_a_byte_a_value_and_says_what_it_lost(
    make_job: Any, family: str, precision: str
) -> None:
    exact = make_job(family, output="exact", precision=precision)
    coded = make_job(family, output="int8", cached="int8", precision=precision)
    loops = [_Loop(exact), _Loop(coded)]
    lost = total = 0.0
    for index in range(len(exact.examples)):
        ours, theirs = (loop.encoded[index].features for loop in loops)
        assert ours.keys() == theirs.keys()
        for name in (n for n in ours if n.startswith(vision_features.FEATURES)):
            assert ours[name].dtype == theirs[name].dtype
            lost += float((ours[name].double() - theirs[name].double()).square().sum())
            total += float(ours[name].double().square().sum())
    facts = loops[1].vision.facts
    assert 0 < facts["relative_error"] == pytest.approx((lost / total) ** 0.5, rel=1e-6)
    assert facts["relative_error"] < 0.02
    assert facts["relative_error"] <= facts["relative_error_worst"] < 0.03
    assert loops[0].vision.facts["relative_error"] == 0
    rows = {n: t for n, t in load_file(blocks_of(coded)[0]).items() if n.startswith("rows/")}
    assert {t.dtype for t in rows.values()} == {torch.int8}
    sums = [loop._gradients(0)[0].item() for loop in loops]
    assert sums[1] == pytest.approx(sums[0], rel=0.01)
    assert sums[1] != sums[0]


def test_int8_refuses_features_that_it_does_not_hold(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_coding, "LARGEST", 3)
    with pytest.raises(UsageError, match=r"int8 changes .* by \d+\.\d%; set it to exact"):
        _Loop(make_job(cached="int8"))


def test_samples_with_the_same_pictures_share_their_features(
    make_job: Any, screens: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = read_samples(screens, "train")[:6]
    asked = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Title?"}]},)
    samples = [*samples[:3], *(replace(s, id=f"{s.id}/2", messages=asked) for s in samples[:3])]
    computed: list[int] = []

    def counting(loaded: Any, items: Any) -> Any:
        computed.append(len(items))
        return vision_features.features_of(loaded, items)

    monkeypatch.setattr(vision_cache, "features_of", counting)
    job = make_job(samples=samples)
    loop = _Loop(job)
    assert computed == [3]
    assert loop.vision.facts["samples"] == 6
    assert loop.vision.facts["sets_of_pictures"] == 3
    cached = loop._gradients(0)[0].item()
    plain, _ = loss_and_gradients(make_job(output="plain", cached=False, samples=samples))
    assert cached == pytest.approx(plain, rel=1e-6)


def test_worker_processes_prepare_the_pictures_and_the_cache_is_the_same(
    make_job: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make_job(output="here")
    _Loop(here)
    ahead = make_job(output="ahead", workers=2)
    own = os.getpid()
    open_image = tokens.open_image
    opened: list[Any] = []

    def noting(path: Path, **options: Any) -> Any:
        if os.getpid() == own:
            opened.append(path)
        return open_image(path, **options)

    monkeypatch.setattr(tokens, "open_image", noting)
    _Loop(ahead)
    assert len(opened) == 1, "but for the sample on which the family is checked"
    assert [b.read_bytes() for b in blocks_of(here)] == [b.read_bytes() for b in blocks_of(ahead)]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_picture_that_breaks_is_named_wherever_it_is_opened(
    make_job: Any, screens: Path, tmp_path: Path, workers: int
) -> None:
    job = make_job(workers=workers)
    broken = job.examples[4].sample
    job.data = tmp_path / "data"
    shutil.copytree(screens, job.data)
    (job.data / broken.images[0].path).write_bytes(b"no picture")
    with pytest.raises(DataError) as raised:
        _Loop(job)
    assert str(raised.value).startswith(broken.id)
    assert "Traceback" not in str(raised.value)


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
