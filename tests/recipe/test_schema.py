"""The JSON schema and the reference page hold every field of every component."""

from __future__ import annotations

import inspect
import re

import pytest
from pydantic import BaseModel

import limbeck.recipe.sections as sections
from limbeck.recipe import Recipe
from limbeck.recipe.component import component_class, component_names
from limbeck.recipe.reference import FAMILIES, reference_page
from limbeck.recipe.schema import recipe_schema

SECTIONS = [Recipe] + [
    value
    for _, value in inspect.getmembers(sections, inspect.isclass)
    if issubclass(value, BaseModel) and value.__module__ == sections.__name__
]


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_field_of_a_section_is_described(section: type[BaseModel]):
    missing = [name for name, info in section.model_fields.items() if not info.description]
    assert missing == []
    assert section.__doc__


@pytest.mark.parametrize("package", FAMILIES)
def test_the_schema_offers_every_component_and_requires_its_word(package: str):
    schema = recipe_schema()
    for name in component_names(package):
        cls = component_class(package, name)
        definition = schema["$defs"][cls.__name__]
        assert cls.selector in definition["required"]
        assert set(definition["properties"]) == set(cls.model_fields)
        assert definition["additionalProperties"] is False


def test_every_reference_of_the_schema_is_defined():
    schema = recipe_schema()
    used = set(re.findall(r"'#/\$defs/([^']+)'", str(schema)))
    assert used <= set(schema["$defs"])
    assert {"Recipe", "Component"}.isdisjoint(used)


def test_a_list_of_components_is_a_choice_among_its_folder():
    losses = recipe_schema()["properties"]["losses"]["items"]["oneOf"]
    assert losses[0] == {"enum": component_names("limbeck.losses")}
    assert {"$ref": "#/$defs/Divergence"} in losses


def test_the_reference_page_has_a_row_for_every_field():
    page = reference_page()
    for section in SECTIONS:
        for name in section.model_fields:
            assert f"| `{name}` |" in page, (section, name)
    for package in FAMILIES:
        for word in component_names(package):
            cls = component_class(package, word)
            assert f"### `{word}`" in page
            for name in cls.model_fields:
                assert name == cls.selector or f"| `{name}` |" in page, (word, name)
