"""Commands to start with: a recipe, its schema, the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.application import RECIPES, Debug, Json, app, as_text
from limbeck.failures import reported


@app.command()
def new(
    name: Annotated[str | None, typer.Argument(help="name of the run; writes NAME.yaml")] = None,
    template: Annotated[
        str, typer.Option("--from", help="a recipe that comes along, or a data source")
    ] = "jsonl",
    debug: Debug = False,
) -> None:
    """Write a commented recipe to start from."""
    with reported(debug) as emit:
        from limbeck.new import write_recipe

        emit(str(write_recipe(name or template, template, RECIPES)))


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option(help="the reference page in place of JSON")] = False,
    debug: Debug = False,
) -> None:
    """Print the recipe's JSON schema, for editors and checks."""
    with reported(debug) as emit:
        from limbeck.recipe.reference import reference_page
        from limbeck.recipe.schema import recipe_schema

        emit(reference_page() if markdown else as_text(recipe_schema()))


@app.command()
def doctor(
    work: Annotated[Path, typer.Option(help="the work folder to check")] = Path("work"),
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check this machine: versions, devices, memory, disk, caches, extras."""
    with reported(debug) as emit:
        from limbeck.doctor import examine

        checks = examine(work)
        if as_json:
            emit(as_text([check.describe() for check in checks]))
        else:
            for check in checks:
                mend = f"; {check.mend}" if check.mend else ""
                emit(f"{check.state:<8}{check.name:<16}{check.found}{mend}")
        if any(check.state == "fail" for check in checks):
            raise typer.Exit(1)
