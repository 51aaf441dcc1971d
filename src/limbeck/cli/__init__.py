"""The command `limbeck`: parses, calls, prints; nothing else. No command loads torch to say --help.

Importing a module of this folder adds its commands; `limbeck --help` lists them in this order.
"""

from limbeck.cli import running, looking, starting  # isort: skip
from limbeck.cli.application import RECIPES, app

__all__ = ["RECIPES", "app", "looking", "main", "running", "starting"]


def main() -> None:
    """Entry point of the command."""
    app(prog_name="limbeck")
