"""The memory that a plan shows: parts, what they depend on, and figures that were published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from limbeck import pipeline
from limbeck.planning.models import of_sizes
from limbeck.planning.precision import weight_bytes
from limbeck.planning.published import PUBLISHED
from limbeck.recipe.sections import ModelSection
from test_pipeline import BUILD, tiny_recipe

ONE = {"seeds": [0], "evaluate__models": ["teacher", "student"]}
LARGER = {**BUILD, "hidden_size": 256, "layers": 6, "intermediate_size": 1024}


def memory_of(plan: pipeline.Plan, kind: str, title: str | None = None) -> dict[str, Any]:
    found = [
        row["memory"]
        for row in plan.describe()["stages"]
        if row["kind"] == kind and title in (None, row["title"])
    ]
    return found[0]


def part(memory: dict[str, Any], name: str) -> float:
    return sum(one["bytes"] for one in memory["parts"] if one["name"] == name)


def student(work: Path, **changes: Any) -> dict[str, Any]:
    values = {**ONE, "student__build": LARGER, "training__samples_per_micro_batch": 4, **changes}
    return memory_of(pipeline.build_plan(tiny_recipe(work, **values)), "student")


@pytest.mark.parametrize(
    ("model", "quantization", "published_gb"),
    [
        ("Qwen/Qwen2-VL-2B-Instruct", "none", 4.43),
        ("Qwen/Qwen2-VL-7B-Instruct", "int8", 9.39),
        ("Qwen/Qwen2-VL-7B-Instruct", "nf4", 5.8),
    ],
)
def test_weights_take_what_was_published_of_them(
    model: str, quantization: Any, published_gb: float
) -> None:
    section = ModelSection(model=model, dtype="bfloat16", quantization=quantization)
    taken = weight_bytes(section, of_sizes(PUBLISHED[model], "bfloat16", ""))
    assert taken / 1e9 == pytest.approx(published_gb, rel=0.03)


def test_every_stage_of_a_recipe_has_its_memory_or_needs_none(tmp_path: Path) -> None:
    losses = [
        {"kind": "cross_entropy"},
        {"kind": "verbalised", "student_layers": 1, "teacher_layers": 1},
        {"kind": "hidden_states"},
    ]
    models = ["teacher", "student", "baseline", "control", "student_blanked", "most_frequent"]
    plan = pipeline.build_plan(tiny_recipe(tmp_path, losses=losses, evaluate__models=models))
    kinds = {row["kind"] for row in plan.describe()["stages"]}
    assert {"models", "teacher", "labels", "features", "verbalisers", "student"} <= kinds
    for row in plan.describe()["stages"]:
        loads_none = row["kind"] in ("data", "evaluation", "report")
        if loads_none or row["title"] == "most_frequent":
            assert row["memory"] is None
        else:
            assert row["memory"]["unknown"] is None, (row["kind"], row["title"])
            assert row["memory"]["bytes"] > 0


def test_rounds_in_which_data_grows_are_planned_too(tmp_path: Path) -> None:
    changes = {
        **ONE,
        "data__unlabelled": 8,
        "grow": {"split": "unlabelled", "labeller": "student", "samples_per_round": 4},
    }
    plan = pipeline.build_plan(tiny_recipe(tmp_path, **changes))
    rounds = [row for row in plan.describe()["stages"] if "round" in row["title"]]
    assert {row["kind"] for row in rounds} == {"student", "labels"}
    assert all(row["memory"]["bytes"] for row in rounds)


def test_settings_change_the_parts_that_they_are_about(tmp_path: Path) -> None:
    whole = student(tmp_path)
    parameters = part(whole, "weights") / 4
    assert part(whole, "optimiser") == pytest.approx(8 * parameters)
    less = student(tmp_path, training__samples_per_micro_batch=2)
    assert part(less, "activations") == pytest.approx(part(whole, "activations") / 2)
    assert part(less, "gradients") == pytest.approx(4 * parameters), "of the first micro-batch"
    checkpointed = student(tmp_path, training__gradient_checkpointing=True)
    assert part(checkpointed, "activations") < part(whole, "activations") / 2
    muon = student(tmp_path, training__optimizer="muon")
    assert 4 * parameters < part(muon, "optimiser") < 8 * parameters
    lora = student(tmp_path, student__adapter={"rank": 4})
    assert part(lora, "optimiser") == pytest.approx(2 * part(lora, "adapters"))
    assert part(lora, "optimiser") < part(whole, "optimiser") / 10
    assert not part(lora, "vision activations") or part(lora, "vision activations") < part(
        whole, "vision activations"
    )
    half = student(tmp_path, training__precision="bf16")
    assert part(half, "weights in bf16") > 0
    cached = student(
        tmp_path,
        student__freeze=["vision_tower", "projector"],
        training__cache_vision_features=True,
    )
    assert part(cached, "pictures") == part(cached, "vision activations") == 0


def test_a_live_teacher_is_counted_with_the_student(tmp_path: Path) -> None:
    live = student(tmp_path, label__signal="live")
    teacher = memory_of(pipeline.build_plan(tiny_recipe(tmp_path, **ONE)), "labels")
    assert part(live, "teacher's weights") == part(teacher, "weights")
    assert part(student(tmp_path), "teacher's weights") == 0
    assert live["bytes"] > student(tmp_path)["bytes"]


def test_finished_data_replaces_what_was_assumed(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path, **ONE)
    before = memory_of(pipeline.build_plan(recipe), "student")
    assert "text tokens a prompt" in before["assumed"]
    pipeline.run(recipe, until="data")
    after = memory_of(pipeline.build_plan(recipe), "student")
    assert after["assumed"] is None
    assert after["bytes"] < before["bytes"], "the context holds more than these pictures"


def test_a_served_teacher_takes_no_memory_here(tmp_path: Path) -> None:
    served = {"backend": "openai", "model": "gpt", "base_url": "http://localhost:1/v1"}
    plain = [{"kind": "cross_entropy"}]
    changes = {"label__signal": "none", "label__answers": "generated", "losses": plain}
    recipe = tiny_recipe(tmp_path, **ONE, **changes, teacher=served)
    plan = pipeline.build_plan(recipe)
    assert "server" in memory_of(plan, "labels")["unknown"]
    assert memory_of(plan, "student")["bytes"] > 0


def test_several_cards_split_a_step_and_copy_gradients(tmp_path: Path) -> None:
    changes = {**ONE, "training__samples_per_micro_batch": 4, "student__build": LARGER}
    recipe = tiny_recipe(tmp_path, **changes)
    one = memory_of(pipeline.build_plan(recipe, gpu="8GiB"), "student")
    four = memory_of(pipeline.build_plan(recipe, gpu="4x8GiB"), "student")
    assert part(four, "activations") < part(one, "activations")
    assert part(four, "buckets of gradients") == part(four, "gradients")
    assert part(one, "buckets of gradients") == 0


def test_of_several_models_under_one_title_the_largest_is_shown(tmp_path: Path) -> None:
    small = {"backend": "transformers", "build": BUILD, "fine_tune": {"training": {"steps": 2}}}
    large = {**small, "build": LARGER}
    changes = {**ONE, "label__signal": "none", "losses": [{"kind": "cross_entropy"}]}
    both = {"backend": "mixture", "teachers": [small, large], "route": {"shares": [0.5, 0.5]}}
    mixed = pipeline.build_plan(tiny_recipe(tmp_path, **changes, teacher=both))
    alone = pipeline.build_plan(tiny_recipe(tmp_path, **changes, teacher=large))
    assert memory_of(mixed, "teacher") == memory_of(alone, "teacher")
    labels = memory_of(mixed, "labels")
    assert part(labels, "teacher's weights") > 0, "both are loaded"
