"""Commands that look at what was made: labels, answers side by side, layers, caches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli.application import Debug, Json, Overrides, RecipePath, app, as_text
from limbeck.failures import reported

cache = typer.Typer(help="Look into the cache of a teacher's distributions.", no_args_is_help=True)
app.add_typer(cache, name="cache")


@app.command("labels")
def labels_command(
    recipe: RecipePath,
    html: Annotated[
        Path | None, typer.Option(help="where the page goes; default: into the run's folder")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Look at the labels: counts, reasons, quantiles, examples, and a page with the pictures."""
    with reported(debug) as emit:
        from limbeck.labels import look_at_labels
        from limbeck.recipe import load_recipe
        from limbeck.report.labels import describe_labels

        found = look_at_labels(load_recipe(recipe, overrides or ()), html)
        if not found["finished"]:
            typer.echo("warning: this label stage is not finished", err=True)
        emit(as_text(found) if as_json else f"{describe_labels(found)}\npage: {found['page']}")


@app.command()
def compare(
    recipe: RecipePath,
    models: Annotated[
        str, typer.Option(help="arms, separated by commas; of one seed: student-seed1")
    ] = "teacher,baseline,student",
    image: Annotated[
        Path | None, typer.Option(help="ask about this picture here, without a page")
    ] = None,
    ask: Annotated[
        str | None, typer.Option(help="with --image: the question; default: the data's own")
    ] = None,
    host: Annotated[
        str, typer.Option(help="address to listen on; others than loopback can be reached")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0: any that is free", min=0, max=65535)] = 8765,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Let teacher, baseline and student answer the same picture side by side, on a web page."""
    if ask is not None and image is None:
        raise typer.BadParameter("--ask needs an --image")
    with reported(debug) as emit:
        from limbeck.compare.page import serve
        from limbeck.compare.terminal import compare_once, describe
        from limbeck.recipe import load_recipe

        loaded, names = load_recipe(recipe, overrides or ()), models.split(",")
        if image is None:
            serve(loaded, names, host=host, port=port, announce=emit, as_json=as_json)
            return
        found = compare_once(loaded, image, ask, names)
        emit(as_text(found) if as_json else describe(found))


@app.command("verbalise")
def verbalise_command(
    recipe: RecipePath,
    arm: Annotated[
        str | None, typer.Option(help="whose layers; default: the first that speak")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="of the arm; default: the first")] = None,
    sample: Annotated[
        str | None, typer.Option(help="id in the evaluation split; default: the first")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="a picture in place of a sample's")] = None,
    ask: Annotated[str | None, typer.Option(help="with --image: the question")] = None,
    answer: Annotated[
        str | None, typer.Option(help="along what they speak; default: what people answered")
    ] = None,
    top: Annotated[int, typer.Option(help="with --json: tokens of every position", min=1)] = 5,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what each target layer of teacher and student says about a picture."""
    if image is not None and sample is not None:
        raise typer.BadParameter("give either --sample or --image")
    if image is None and ask is not None:
        raise typer.BadParameter("--ask needs an --image")
    if image is not None and answer is None:
        raise typer.BadParameter("--image needs an --answer, along which the layers speak")
    with reported(debug) as emit:
        from limbeck.recipe import load_recipe
        from limbeck.verbalise import describe, verbalise

        found = verbalise(
            load_recipe(recipe, overrides or ()),
            arm=arm,
            seed=seed,
            sample_id=sample,
            image=image,
            question=ask,
            answer=answer,
            top=max(top, 3),
        )
        emit(as_text(found) if as_json else describe(found))


@cache.command("inspect")
def inspect_command(
    folder: Annotated[Path, typer.Argument(help="a label stage's folder, labels/FINGERPRINT")],
    sample: Annotated[
        str | None, typer.Option(help="id of the sample that is decoded; default: the first")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what a cache costs and keeps: sizes, tail mass, entropy, agreement, one sample."""
    with reported(debug) as emit:
        from limbeck.signals.inspection import describe, inspect_cache

        found = inspect_cache(folder, sample)
        emit(as_text(found) if as_json else describe(found))
