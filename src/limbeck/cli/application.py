"""The application itself, the options that commands share, and how results are printed.

Results go to stdout (with --json as JSON), progress and messages to stderr.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(
    help="Distil a large vision-language model into a small one, and measure what it cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="a recipe file (YAML)")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="override a field; may be given several times"),
]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON to stdout")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]

RECIPES = Path(__file__).parents[1] / "recipes"
"""The recipes that come with the package."""


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    """Distil a large vision-language model into a small one, and measure what it cost."""
    if version:
        from limbeck import __version__

        typer.echo(f"limbeck {__version__}")
        raise typer.Exit


def as_text(value: Any) -> str:
    """A result as JSON."""
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
