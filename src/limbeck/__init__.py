"""Limbeck distils a large vision-language model into a small one and measures what it cost.

import limbeck
limbeck.load_recipe("recipes/demo.yaml").name
limbeck.run(limbeck.load_recipe("recipes/demo.yaml"))
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from limbeck.errors import LimbeckError
from limbeck.pipeline import build_plan, run
from limbeck.recipe import Recipe, load_recipe

try:
    __version__ = version("limbeck")
except PackageNotFoundError:  # a source tree that was not installed
    __version__ = "0.0.0"

__all__ = ["LimbeckError", "Recipe", "__version__", "build_plan", "load_recipe", "run"]
