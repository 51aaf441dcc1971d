"""The recipe: YAML in, one frozen typed value out."""

from limbeck.recipe.arms import Arm, arms_of
from limbeck.recipe.component import Component, Section
from limbeck.recipe.loading import load_recipe, recipe_from
from limbeck.recipe.recipe import Recipe

__all__ = ["Arm", "Component", "Recipe", "Section", "arms_of", "load_recipe", "recipe_from"]
