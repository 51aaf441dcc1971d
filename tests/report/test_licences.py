from __future__ import annotations

import json
from pathlib import Path

import pytest

from limbeck.report.licences import licences_of


def model_folder(path: Path, card: str | None) -> str:
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    (path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    if card is not None:
        (path / "README.md").write_text(card)
    return str(path)


def licence_of(recipe: dict, of: str) -> list[tuple[str | None, str]]:
    return [(r["licence"], r["source"]) for r in licences_of(recipe, {}) if r["of"] == of]


def test_a_models_card_tells_its_licence(tmp_path):
    teacher = model_folder(tmp_path / "teacher", "---\nlicense: apache-2.0\n---\n# A model\n")
    named = "---\nlicense: other\nlicense_name: a-special-licence\n---\n"
    student = model_folder(tmp_path / "student", named)
    recipe = {"teacher": {"model": teacher}, "student": {"model": student}}
    assert licence_of(recipe, "teacher") == [("apache-2.0", "its model card")]
    assert licence_of(recipe, "student") == [("a-special-licence", "its model card")]


@pytest.mark.parametrize(
    "card", [None, "no front matter", "---\n[broken\n---\n", "---\n- a\n---\n"]
)
def test_a_licence_that_is_not_known_is_none(tmp_path, card):
    recipe = {"teacher": {"model": model_folder(tmp_path / "m", card)}, "student": {}}
    assert licence_of(recipe, "teacher") == [(None, "")]
    assert licence_of(recipe, "student") == [(None, "")]


def test_a_model_that_is_not_here_has_no_known_licence():
    recipe = {"teacher": {"backend": "openai", "model": "some-large-model"}}
    assert licence_of(recipe, "teacher") == [(None, "")]


def test_data_tells_its_own_and_the_recipe_overrules():
    facts = {"licence": "CC-BY-4.0"}
    recipe = {"data": {"source": "screens"}, "student": {"build": {"family": "qwen2_vl"}}}
    rows = {r["of"]: r for r in licences_of(recipe, facts)}
    assert (rows["data"]["licence"], rows["data"]["source"]) == ("CC-BY-4.0", "the data stage")
    assert "no weights of others" in rows["student"]["licence"]
    recipe["report"] = {"licences": {"data": "CC0-1.0", "teacher": "mine"}}
    rows = {r["of"]: r for r in licences_of(recipe, facts)}
    assert (rows["data"]["licence"], rows["data"]["source"]) == ("CC0-1.0", "the recipe")
    assert rows["teacher"]["licence"] == "mine"


def test_several_teachers_and_both_parts_of_a_composed_student_are_named(tmp_path):
    one = model_folder(tmp_path / "one", "---\nlicense: mit\n---\n")
    two = model_folder(tmp_path / "two", None)
    recipe = {
        "teacher": {"backend": "mixture", "teachers": [{"model": one}, {"model": two}]},
        "student": {"compose": {"vision": one, "language": two}},
    }
    assert licence_of(recipe, "teacher") == [("mit", "its model card"), (None, "")]
    assert licence_of(recipe, "student") == [("mit", "its model card"), (None, "")]


def test_a_student_that_inherits_layers_has_the_teachers_licence(tmp_path):
    one = model_folder(tmp_path / "one", "---\nlicense: mit\n---\n")
    recipe = {"teacher": {"model": one}, "student": {"inherit": {"layers": 2}}}
    assert licence_of(recipe, "student") == [("mit", "its model card")]
