"""`--set a.b=c` sets any field, and an error about it names the option and not a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from limbeck.errors import UsageError
from limbeck.recipe import Recipe, load_recipe
from limbeck.recipe.loading import apply_override

TEXT = """\
name: small
data: {source: screens}
teacher: {backend: transformers, build: {family: qwen2_vl}}
student: {build: {family: qwen2_vl}}
losses:
  - cross_entropy
  - {kind: divergence, temperature: 1.0}
training: {epochs: 3}
"""


def load(tmp_path: Path, *overrides: str) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_text(TEXT)
    return load_recipe(path, overrides)


def test_a_field_of_a_section_is_set(tmp_path: Path):
    assert load(tmp_path, "label.max_new_tokens=7").label.max_new_tokens == 7
    assert load(tmp_path, "training.learning_rate=1e-4").training.learning_rate == 1e-4
    assert load(tmp_path, "name=other").name == "other"


def test_an_item_of_a_list_is_set_and_replaced(tmp_path: Path):
    recipe = load(tmp_path, "losses.1.weight=0.5", "losses.0={kind: cross_entropy, weight: 2}")
    assert [loss.model_dump()["weight"] for loss in recipe.losses] == [2, 0.5]


def test_lists_and_mappings_are_read_as_yaml(tmp_path: Path):
    recipe = load(tmp_path, "label.temperatures=[1, 2]", "seeds=[1,2,3]")
    assert (recipe.label.temperatures, recipe.seeds) == ((1.0, 2.0), (1, 2, 3))


def test_sections_that_the_file_lacks_are_made(tmp_path: Path):
    recipe = load(tmp_path, "label.checks.min_characters=3")
    assert recipe.label.checks.min_characters == 3


def test_the_last_override_of_a_field_counts(tmp_path: Path):
    assert load(tmp_path, "name=a", "name=b").name == "b"


def test_a_value_may_hold_equals_signs_and_be_empty(tmp_path: Path):
    assert load(tmp_path, "label.checks.pattern=a=b").label.checks.pattern == "a=b"
    assert load(tmp_path, "label.checks.pattern=").label.checks.pattern is None


def test_setting_a_field_takes_out_those_that_exclude_it(tmp_path: Path):
    training = load(tmp_path, "training.steps=40").training
    assert (training.steps, training.epochs) == (40, None)
    student = load(tmp_path, "student.model=a/b").student
    assert (student.model, student.build) == ("a/b", None)
    with pytest.raises(UsageError, match="steps and epochs exclude one another"):
        load(tmp_path, "training={steps: 1, epochs: 1}")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("training.steps", "--set: 'training.steps' is not of the form a.b=value"),
        ("=1", "is not of the form a.b=value"),
        ("a..b=1", "is not of the form a.b=value"),
        ("losses.5.weight=1", "'5' is not an item of a list of 2"),
        ("losses.x.weight=1", "'x' is not an item of a list of 2"),
        ("losses.-1.weight=1", "'-1' is not an item of a list of 2"),
        ("losses.²=1", "'²' is not an item"),
        (f"losses.{'9' * 5000}=1", "is not an item of a list of 2"),
        ("name.first=1", "'name.first' runs through a plain value"),
        ("name.first.second=1", "'first' is below a plain value"),
        ("training.steps=[", "--set training.steps=[:1: not valid YAML"),
        ("training.steps=x", "--set training.steps=x: training.steps: must be a valid integer"),
        ("training.stepz=1", "--set training.stepz=1: training.stepz: unknown key 'stepz'; did"),
        ("training={stepz: 1}", "--set training={stepz: 1}: training.stepz: unknown key"),
    ],
)
def test_a_wrong_override_is_named_in_place_of_a_line(tmp_path: Path, override: str, expected: str):
    with pytest.raises(UsageError) as caught:
        load(tmp_path, override)
    assert expected in str(caught.value)
    assert str(caught.value).startswith("--set")


def test_an_override_of_one_field_leaves_lines_to_the_others(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text(TEXT.replace("qwen2_vl}}", "qwen2_vl}, fine_tune: 3}", 1))
    with pytest.raises(UsageError, match=r"r\.yaml:3: teacher\.fine_tune") as caught:
        load_recipe(path, ["name=other"])
    assert "must be a mapping" in str(caught.value)


def test_apply_override_changes_the_values_in_place():
    values = {"a": {"b": [1, {"c": 2}]}}
    apply_override(values, "a.b.1.c=3")
    assert values == {"a": {"b": [1, {"c": 3}]}}
