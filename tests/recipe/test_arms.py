"""Arms: what is trained and compared, from one recipe."""

from __future__ import annotations

from typing import Any

import pytest

from limbeck.errors import UsageError
from limbeck.recipe import Recipe, arms_of, recipe_from


def recipe(**changes: Any) -> Recipe:
    values: dict[str, Any] = {
        "name": "small",
        "data": "screens",
        "teacher": {"backend": "transformers", "build": {"family": "qwen2_vl"}},
        "student": {"build": {"family": "qwen2_vl"}},
        "losses": [
            {"kind": "cross_entropy", "weight": 0.3, "target": "gold"},
            {"kind": "divergence", "weight": 0.7},
        ],
        "training": {"epochs": 2},
    }
    return recipe_from({**values, **changes})


def test_every_recipe_has_teacher_student_baseline_and_control():
    names = [arm.name for arm in arms_of(recipe())]
    assert names == ["teacher", "student", "baseline", "control"]
    assert [arm.trained for arm in arms_of(recipe())] == [False, True, False, True]


def test_the_control_is_plain_cross_entropy_of_full_weight_on_the_same_target():
    control = arms_of(recipe(), ["control"])[0]
    assert [loss.model_dump() for loss in control.recipe.losses] == [
        {"kind": "cross_entropy", "weight": 1.0, "target": "gold"}
    ]
    assert control.recipe.training == recipe().training


@pytest.mark.parametrize(
    "losses", [["divergence"], [{"kind": "cross_entropy", "weight": 0}, "divergence"]]
)
def test_a_recipe_without_cross_entropy_still_gets_a_control(losses: list[Any]):
    control = arms_of(recipe(losses=losses), ["control"])[0]
    dumped = [loss.model_dump() for loss in control.recipe.losses]
    assert dumped == [{"kind": "cross_entropy", "weight": 1.0, "target": "teacher"}]


def test_seeds_multiply_the_trained_arms_and_the_random_baseline():
    arms = arms_of(recipe(seeds=[0, 1]))
    assert [arm.id for arm in arms] == [
        "teacher",
        "student-seed0",
        "student-seed1",
        "baseline-seed0",
        "baseline-seed1",
        "control-seed0",
        "control-seed1",
    ]


def test_a_pretrained_baseline_has_no_seed():
    arms = arms_of(recipe(seeds=[0, 1], student={"model": "a/b"}), ["baseline"])
    assert [arm.id for arm in arms] == ["baseline"]


def test_an_arm_of_the_recipe_differs_by_its_overrides_alone():
    with_arm = recipe(
        arms={"short": {"training.steps": 5, "losses.1.temperature": 2}},
        evaluate={"models": ["student", "short"]},
    )
    student, short = arms_of(with_arm)
    assert student.recipe == with_arm
    assert (short.recipe.training.steps, short.recipe.training.epochs) == (5, None)
    assert short.recipe.losses[1].model_dump()["temperature"] == 2
    changed = short.recipe.model_copy(
        update={"training": with_arm.training, "losses": with_arm.losses}
    )
    assert changed == with_arm


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ({"evaluate.limit": 3}, "arms.x: 'evaluate.limit' cannot differ between arms"),
        ({"seeds": [3]}, "arms.x: 'seeds' cannot differ between arms"),
        ({"benchmark.models": []}, "on the recipe's own data, like every other arm"),
        ({"student-x.model": "a"}, "cannot differ between arms"),
        ({"training.stepz": 3}, "arms.x: training.stepz: unknown key 'stepz'; did you mean"),
        ({"training.steps": "many"}, "arms.x: training.steps: must be a valid integer"),
        ({"losses.7.weight": 1}, "arms.x.losses.7.weight: '7' is not an item of a list of 2"),
    ],
)
def test_a_wrong_override_of_an_arm_names_the_arm(overrides: dict[str, Any], expected: str):
    with pytest.raises(UsageError) as caught:
        arms_of(recipe(arms={"x": overrides}, evaluate={"models": ["x"]}))
    assert expected in str(caught.value)


def test_any_arm_can_answer_with_blanked_pictures():
    names = ["teacher_blanked", "student_blanked", "baseline_blanked", "short_blanked"]
    short = {"training.steps": 5}
    found = arms_of(recipe(seeds=[0, 1], arms={"short": short}, evaluate={"models": names}))
    assert [arm.id for arm in found] == [
        "teacher_blanked",
        *("student_blanked-seed0", "student_blanked-seed1"),
        *("baseline_blanked-seed0", "baseline_blanked-seed1"),
        *("short_blanked-seed0", "short_blanked-seed1"),
    ]
    assert all(arm.blanked and not arm.trained for arm in found)
    assert [arm.sighted.id for arm in found][1:3] == ["student-seed0", "student-seed1"]
    assert [arm.sighted.trained for arm in found] == [False, True, True, False, False, True, True]
    assert found[-1].recipe.training.steps == 5


@pytest.mark.parametrize("floor", ["most_frequent", "nearest_neighbour"])
def test_a_floor_that_copies_answers_is_one_arm_without_seed_or_blanks(floor: str):
    [arm] = arms_of(recipe(seeds=[0, 1]), [floor])
    assert (arm.id, arm.seed, arm.trained, arm.blanked) == (floor, None, False, False)
    with pytest.raises(UsageError, match="is not among the known arms"):
        recipe(evaluate={"models": [f"{floor}_blanked"]})


def test_floors_cannot_be_benchmarked_and_their_names_not_taken():
    floors = ["student", "student_blanked", "most_frequent", "nearest_neighbour"]
    for name in floors[1:]:
        with pytest.raises(UsageError, match=f"'{name}' is not among what is evaluated"):
            recipe(evaluate={"models": floors}, benchmark={"models": [name]})
    with pytest.raises(UsageError, match="choose another name"):
        recipe(arms={"x_blanked": {}}, evaluate={"models": ["x_blanked"]})


def test_a_name_that_is_no_arm_lists_those_that_are():
    with pytest.raises(
        UsageError, match="known arms: teacher, baseline, most_frequent, nearest_neighbour"
    ):
        arms_of(recipe(), ["nobody"])
