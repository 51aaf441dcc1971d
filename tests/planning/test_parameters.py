"""Parameters counted without loading a model are those of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from limbeck.models.family import PARTS, family_named, family_names
from limbeck.models.load import load_model
from limbeck.planning.models import Unknown, built, of_sizes, shape_of
from limbeck.planning.published import PUBLISHED
from limbeck.planning.weights import shape_in
from limbeck.recipe.sections import Adapter, ModelSection, Student

SIZES = {
    "hidden_size": 48,
    "layers": 3,
    "heads": 4,
    "key_value_heads": 2,
    "intermediate_size": 80,
    "vision_hidden_size": 32,
    "vision_layers": 2,
    "vision_heads": 2,
    "vocabulary_rows": 256,
}


@pytest.mark.parametrize("name", family_names())
def test_a_build_has_the_parameters_that_its_sizes_say(name: str, tmp_path: Path) -> None:
    family = family_named(name)
    checkpoint = family.tiny(tmp_path / "model", **SIZES)
    loaded = load_model(ModelSection(model=str(checkpoint)), device="cpu")
    by_rule = built(family.build(**SIZES))
    by_header = shape_in(checkpoint)
    counted = sum(parameter.numel() for parameter in loaded.model.parameters())
    assert by_rule.parameters == counted
    assert by_header.parameters == counted
    assert by_header.sizes == by_rule.sizes
    assert by_header.counted == by_rule.counted
    assert by_header.layer == by_rule.layer
    named = dict(loaded.model.named_parameters(remove_duplicate=False))
    for part in PARTS:
        own = sum(named[n].numel() for n in family.part_of(loaded.model, part))
        pieces = {"language_model": ("language_model", "embedding")}.get(part, (part,))
        expected = sum(by_rule.counted[piece].total for piece in pieces)
        assert own == expected or (part == "head" and expected == 0), part


@pytest.mark.parametrize("name", ["qwen2_vl", "llava"])
@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("targets", ["all_linear", ("q_proj", "down_proj")])
def test_an_adapter_has_the_parameters_that_the_plan_says(
    name: str, targets: str | tuple[str, ...], kind: str, tmp_path: Path
) -> None:
    from limbeck.models.adapt import prepare_for_training
    from limbeck.planning.trained import trained

    family = family_named(name)
    checkpoint = family.tiny(tmp_path / "model", **SIZES)
    adapter = Adapter(kind=kind, rank=3, targets=targets)  # pyright: ignore[reportArgumentType]
    loaded = load_model(ModelSection(model=str(checkpoint)), device="cpu")
    counts = prepare_for_training(loaded, adapter=adapter)
    assert trained(shape_in(checkpoint), adapter, ()).total == counts["trainable_parameters"]


def test_fewer_layers_of_a_teacher_have_fewer_parameters(tmp_path: Path) -> None:
    family = family_named("qwen2_vl")
    whole = built(family.build(**SIZES))
    less = built(family.build(**{**SIZES, "layers": 2, "vision_layers": 1}))
    kept = whole.kept(2, 1)
    assert kept.counted == less.counted
    assert kept.sizes == less.sizes
    student = Student.model_validate(
        {"inherit": {"language": {"count": 2}, "vision": {"count": 1}}}
    )
    teacher = ModelSection(build=family.build(**SIZES))
    assert shape_of(student, teacher).parameters == less.parameters


@pytest.mark.parametrize(
    ("model", "billions"),
    [("Qwen/Qwen2-VL-2B-Instruct", 2.21), ("Qwen/Qwen2-VL-7B-Instruct", 8.29)],
)
def test_published_sizes_give_the_published_parameters(model: str, billions: float) -> None:
    counted = of_sizes(PUBLISHED[model], "bfloat16", "").parameters
    assert counted / 1e9 == pytest.approx(billions, rel=0.01)


def test_a_model_that_is_nowhere_is_unknown_and_says_why() -> None:
    with pytest.raises(Unknown, match="not on this machine"):
        shape_of(ModelSection(model="nobody/nothing"))


def test_a_torn_header_is_unknown_and_not_a_crash(tmp_path: Path) -> None:
    checkpoint = family_named("qwen2_vl").tiny(tmp_path / "model")
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(b"\xff" * 64)
    with pytest.raises(Unknown, match="header cannot be read"):
        shape_of(ModelSection(model=str(checkpoint)))


def test_sizes_of_a_build_are_compared_with_its_own_tokenizer(tmp_path: Path) -> None:
    family = family_named("qwen2_vl")
    free = {name: value for name, value in SIZES.items() if name != "vocabulary_rows"}
    shape = built(family.build(**free))
    assert shape.at_most
    checkpoint = family.tiny(tmp_path / "model", **free)
    real = shape_in(checkpoint)
    assert real.parameters <= shape.parameters
    assert replace(shape.sizes, vocabulary=real.sizes.vocabulary) == real.sizes
