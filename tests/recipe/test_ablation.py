"""Points from grids and lists: short names, equal things trained once, absurd sizes refused."""

from __future__ import annotations

import re
from typing import Any

import pytest
from test_arms import recipe

from limbeck.errors import UsageError
from limbeck.recipe import Recipe, arms_of
from limbeck.recipe.ablation import Ablate, points_in, short_names, value_text
from limbeck.recipe.design import Design, design_of
from limbeck.recipe.recipe import NAME

GRID = {"losses.1.temperature": [1, 2], "training.steps": [40, 80]}


def ablating(section: dict[str, Any], **changes: Any) -> Recipe:
    return recipe(**{"training": {"steps": 40}, "seeds": [0, 1], **changes}, ablate=section)


def design(made: Recipe) -> Design:
    found = design_of(made)
    assert found is not None
    return found


def trained(made: Recipe) -> list[str]:
    return list(dict.fromkeys(arm.name for arm in arms_of(made) if arm.trained))


def test_a_grid_is_every_combination_and_the_base_is_the_student_itself():
    made = ablating({"grid": GRID})
    points = ["temperature-1_steps-80", "temperature-2_steps-40", "temperature-2_steps-80"]
    assert trained(made) == ["student", "control", *points]
    by_name = {arm.name: arm.recipe for arm in arms_of(made)}
    found = by_name["temperature-2_steps-80"]
    assert (found.training.steps, found.losses[1].model_dump()["temperature"]) == (80, 2)
    assert [arm.seed for arm in arms_of(made) if arm.name == points[0]] == [0, 1], "paired seeds"
    base = design(made).points[0]
    assert (base.arm, dict(base.texts)) == (
        "student",
        {"losses.1.temperature": "1", "training.steps": "40"},
    )


def test_one_at_a_time_leaves_the_other_fields_as_they_are():
    made = ablating({"grid": GRID, "one_at_a_time": True})
    assert trained(made) == ["student", "control", "temperature-2", "steps-80"]
    contexts = [design(made).contexts(axis) for axis in design(made).axes]
    assert contexts == [
        [{0: "student", 1: "temperature-2"}],
        [{0: "student", 1: "steps-80"}],
    ]


def test_a_single_axis_is_compared_with_the_base_though_it_is_not_listed():
    axis = design(ablating({"grid": {"training.steps": [80, 160]}})).axes[0]
    assert axis.levels == ("40", "80", "160")
    assert (axis.base, axis.numbers) == (0, (40.0, 80.0, 160.0))


def test_levels_are_averaged_only_over_combinations_that_have_them_all():
    made = ablating({"grid": {"losses.1.temperature": [2, 4], "training.steps": [40, 80]}})
    found = design(made)
    temperature, steps = found.axes
    assert temperature.base is None, "the base's temperature is no level"
    assert temperature.base_text == "1"
    assert found.contexts(steps) == [
        {0: "temperature-2_steps-40", 1: "temperature-2_steps-80"},
        {0: "temperature-4_steps-40", 1: "temperature-4_steps-80"},
    ]


def test_listed_points_and_the_recipe_s_arms_are_levels_of_one_axis():
    made = ablating({"points": {"short": {"training.steps": 5}}}, arms={"few": {"label.limit": 3}})
    assert trained(made) == ["student", "control", "short", "few"]
    axis = design(made).axes[0]
    assert axis.listed
    assert axis.levels == ("student", "short", "few")


def test_a_point_s_own_control_is_trained_only_where_it_would_differ():
    made = ablating({"grid": GRID, "controls": True})
    extra = [name for name in trained(made) if name.endswith("_control")]
    assert extra == ["temperature-1_steps-80_control"], "temperature does not concern a control"
    controls = {point.name: point.control for point in design(made).points}
    assert controls == {
        "student": "control",
        "temperature-1_steps-80": "temperature-1_steps-80_control",
        "temperature-2_steps-40": "control",
        "temperature-2_steps-80": "temperature-1_steps-80_control",
    }
    control = next(arm for arm in arms_of(made) if arm.name == extra[0]).recipe
    assert [loss.model_dump()["kind"] for loss in control.losses] == ["cross_entropy"]
    assert control.training.steps == 80
    without = design(ablating({"grid": GRID}))
    assert [point.control for point in without.points] == ["control", None, "control", None]


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"grid": {"training.steps": list(range(1, 101))}}, "100 points, each a training"),
        (
            {"grid": {f"training.x{n}": [1, 2, 3] for n in range(30)}},
            "205,891,132,094,649 points, each a training for every seed; set one_at_a_time (90",
        ),
        ({"grid": {"training.steps": [1, 2]}, "max_points": 1}, "raise ablate.max_points (1)"),
        ({"grid": {"training.steps": [1, 1]}}, "a value is listed twice"),
        ({"grid": {"training.steps": []}}, "ablate.grid.training.steps"),
        ({"grid": {"losses": [["divergence"]], "losses.0.weight": [1]}}, "lies inside of losses"),
        ({"grid": {"training..steps": [1]}}, "is no dotted field"),
        ({"grid": {"evaluate.limit": [1]}}, "it is evaluated and measured as the recipe says"),
        ({"grid": {"training.stepz": [1]}}, "did you mean 'steps'"),
        ({"points": {"same": {"training.steps": 40}}}, "points student and same are the same"),
        (
            {"points": {"a": {"training.steps": 9}, "b": {"training.steps": 9}}},
            "points a and b are the same recipe",
        ),
        ({"points": {"control": {"training.steps": 9}}}, "every recipe has this arm"),
        ({"points": {"x_blanked": {"training.steps": 9}}}, "_blanked ends the names"),
        ({"points": {"a/b": {"training.steps": 9}}}, "ablate.points"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_its_place(section: dict[str, Any], words: str):
    with pytest.raises(UsageError) as caught:
        arms_of(ablating(section))
    assert words in str(caught.value)


def test_a_point_with_the_name_of_an_arm_is_refused():
    with pytest.raises(UsageError, match="two points have this name"):
        ablating({"points": {"x": {"training.steps": 9}}}, arms={"x": {"training.steps": 8}})


@pytest.mark.parametrize(
    "values",
    [
        [1e-4, 0.3, True, None, "a b/c", "", -2, "é", "x" * 200],
        [["vision_tower"], ["vision_tower", "projector"], []],
        [{"kind": "lora", "rank": 8}, {"kind": "lora", "rank": 16}, None],
        ["../../etc", ".", "..", "con/..", "a\nb"],
    ],
)
def test_every_value_gives_a_name_for_files_and_no_two_are_alike(values: list[Any]):
    names = [point.name for point in Ablate(grid={"a.b": values}).all_points({})]
    assert all(re.fullmatch(NAME, name) and len(name) <= 80 for name in names)
    assert len(set(names)) == len(values)


def test_a_long_name_becomes_a_number():
    grid = {f"training.{'x' * 30}{n}": [1] for n in range(3)}
    assert [point.name for point in Ablate(grid=grid).all_points({})] == ["point-1"]


def test_short_names_are_the_shortest_ends_that_tell_axes_apart():
    assert short_names(["losses.0.weight", "losses.1.weight", "training.steps"]) == {
        "losses.0.weight": "losses.0.weight",
        "losses.1.weight": "losses.1.weight",
        "training.steps": "steps",
    }
    assert short_names(["label.training.steps", "training.steps"])["training.steps"] == (
        "training.steps"
    )


def test_values_are_shown_as_in_a_recipe():
    assert [value_text(v) for v in (1, 2.0, 0.5, True, None, "x", {"kind": "divergence"})] == [
        *("1", "2", "0.5", "true", "null", "x", "divergence")
    ]


def test_a_file_of_points_may_be_named_or_a_plain_list():
    named = {"short": {"training.steps": 5}}
    assert points_in("f", named) == named
    rows = [{"training.steps": 5}, {"training.steps": 6, "label.limit": 3}, {"training.steps": 5}]
    assert list(points_in("f", rows)) == ["steps-5", "steps-6_limit-3", "point-3"]
    for wrong in ("text", [1], [{}]):
        with pytest.raises(UsageError, match=r"^f: "):
            points_in("f", wrong)
