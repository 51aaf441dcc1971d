"""The recipe's JSON schema, for editors and checks, with every component of every folder.

It is read off the classes: a new file in a component's folder is in the schema by being there.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

from pydantic.json_schema import GenerateJsonSchema

from limbeck.recipe.component import build_component, component_class, component_names
from limbeck.recipe.recipe import Recipe

OWN_CLASS = r"^[\w.]+:\w+$"
"""How a recipe names a user's own class: `package.module:Class`."""


class _WithComponents(GenerateJsonSchema):
    """Writes a component field as the choice among the classes of its folder."""

    def function_before_schema(self, schema: Any) -> dict[str, Any]:
        family = family_of(schema["function"]["function"])
        if family is None:
            return super().function_before_schema(schema)
        package, selector, without = family
        own = {
            "type": "object",
            "properties": {selector: {"type": "string", "pattern": OWN_CLASS}},
            "required": [selector],
        }
        names = [name for name in component_names(package) if name != without]
        classes = [component_class(package, name) for name in names]
        known = [self.generate_inner(cls.__pydantic_core_schema__) for cls in classes]
        return {"oneOf": [{"enum": names}, {"type": "string", "pattern": OWN_CLASS}, *known, own]}


def recipe_schema() -> dict[str, Any]:
    """The JSON schema of a recipe file (draft 2020-12)."""
    schema = Recipe.model_json_schema(schema_generator=_WithComponents)
    for definition in cast("dict[str, Any]", schema["$defs"]).values():
        chosen_by = [n for n, p in definition.get("properties", {}).items() if "const" in p]
        if chosen_by:
            definition["required"] = sorted({*definition.get("required", []), *chosen_by})
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def family_of(function: Any) -> tuple[str, str, str | None] | None:
    """Package, selector and the word left out of a component field, told from its validator."""
    if isinstance(function, partial) and function.func is build_component:
        package, selector = cast("tuple[str, str]", function.args)
        return package, selector, cast("str | None", function.keywords.get("without"))
    return None
