"""The command `limbeck`: parses, calls, prints; nothing else. No command loads torch to say --help.

Results go to stdout (with --json as JSON), progress and messages to stderr.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.failures import reported

if TYPE_CHECKING:
    from limbeck.stages import Command, Stage

app = typer.Typer(
    help="Distil a large vision-language model into a small one, and measure what it cost.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

cache = typer.Typer(help="Look into the cache of a teacher's distributions.", no_args_is_help=True)
app.add_typer(cache, name="cache")

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="a recipe file (YAML)")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="override a field; may be given several times"),
]
Json = Annotated[bool, typer.Option("--json", help="print the result as JSON to stdout")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]

RECIPES = Path(__file__).parent / "recipes"
"""The recipes that come with the package."""


def main() -> None:
    """Entry point of the command."""
    app(prog_name="limbeck")


@app.callback(invoke_without_command=True)
def options(
    version: Annotated[bool, typer.Option("--version", help="print the version")] = False,
) -> None:
    """Distil a large vision-language model into a small one, and measure what it cost."""
    if version:
        from limbeck import __version__

        typer.echo(f"limbeck {__version__}")
        raise typer.Exit


@app.command("run")
def run_command(
    recipe: RecipePath, overrides: Overrides = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Run every stage that is not done yet, from data to report."""
    _run(recipe, overrides, None, as_json, debug)


@app.command()
def plan(
    recipe: RecipePath, overrides: Overrides = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Show what would run and what is done; touches nothing."""
    with reported(debug) as emit:
        from limbeck.pipeline import build_plan
        from limbeck.recipe import load_recipe

        planned = build_plan(load_recipe(recipe, overrides or ()))
        if as_json:
            emit(_json(planned.describe()))
        else:
            width = max((len(row.stage.title) for row in planned.stages), default=0)
            for row in planned.stages:
                state = "done " if row.done else "to do"
                emit(f"{state}  {row.stage.kind:<12}{row.stage.title:<{width}}  {row.folder}")
            for name, budget in planned.visual_budgets.items():
                emit(_budget_line(name, budget))
            for need in planned.disk:
                emit(_disk_line(need))
            left = sum(not row.done for row in planned.stages)
            emit(f"{len(planned.stages)} stages, {left} to do")
        for problem in planned.problems:
            typer.echo(f"error: {problem}", err=True)
        if planned.problems:
            raise typer.Exit(planned.problems[0].exit_code)


def _stage_command(name: Command, text: str) -> None:
    @app.command(name, help=text)
    def command(
        recipe: RecipePath, overrides: Overrides = None, as_json: Json = False, debug: Debug = False
    ) -> None:
        _run(recipe, overrides, name, as_json, debug)


_stage_command("data", "Read, check and store the data set.")
_stage_command("label", "Let the teacher answer; keep its answers and distributions.")


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
        emit(_json(found) if as_json else f"{describe_labels(found)}\npage: {found['page']}")


_stage_command("train", "Train the student, the control and every other arm.")


@app.command()
def evaluate(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="a recipe file (YAML)")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="score this JSONL file (id, prediction, references) in place of a recipe"
        ),
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="with --predictions: metrics, separated by commas")
    ] = "rouge_l,bleu,cider_d",
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer the test samples with every model and score the answers, or score a file."""
    if (recipe is None) == (predictions is None):
        raise typer.BadParameter("give either RECIPE or --predictions FILE")
    if predictions is None:
        assert recipe is not None
        _run(recipe, overrides, "evaluate", as_json, debug)
        return
    if overrides:
        raise typer.BadParameter("--set needs a RECIPE")
    with reported(debug) as emit:
        from limbeck.evaluate.scoring import score_file

        scores = score_file(predictions, [word.strip() for word in metrics.split(",")])
        for warning in scores["warnings"]:
            typer.echo(f"warning: {warning}", err=True)
        emit(_json(scores) if as_json else _table(scores))


_stage_command("benchmark", "Measure latency, throughput and memory of what was evaluated.")
_stage_command("report", "Write the report from the results files.")


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
        emit(_json(found) if as_json else describe(found))


@app.command("diff")
def diff_command(
    first: Annotated[Path, typer.Argument(metavar="A", help="a results file, or its folder")],
    second: Annotated[Path, typer.Argument(metavar="B", help="another of the same kind")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Compare two results files: benchmark/FINGERPRINT/results.json or runs/NAME/results.json."""
    with reported(debug) as emit:
        from limbeck.report.difference_text import describe
        from limbeck.report.differences import compare_files

        found = compare_files(first, second)
        emit(_json(found) if as_json else describe(found))


@app.command()
def demo(overrides: Overrides = None, as_json: Json = False, debug: Debug = False) -> None:
    """Run the recipe that comes along: no download, no GPU, minutes on two cores."""
    _run(RECIPES / "demo.yaml", overrides, None, as_json, debug)


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

        emit(reference_page() if markdown else _json(recipe_schema()))


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
            emit(_json([check.describe() for check in checks]))
        else:
            for check in checks:
                mend = f"; {check.mend}" if check.mend else ""
                emit(f"{check.state:<8}{check.name:<16}{check.found}{mend}")
        if any(check.state == "fail" for check in checks):
            raise typer.Exit(1)


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
        emit(_json(found) if as_json else describe(found))


def _run(
    path: Path, overrides: list[str] | None, until: Command | None, as_json: bool, debug: bool
) -> None:
    """Run a recipe up to a stage, and print what was made."""
    with reported(debug) as emit:
        from limbeck.pipeline import run
        from limbeck.recipe import load_recipe

        started = time.monotonic()
        first = os.environ.get("RANK", "0") == "0"  # torchrun starts this once for each device
        recipe = load_recipe(path, overrides or ())
        result = run(recipe, until=until, on_event=_tell if first else None)
        if not first:
            return
        if as_json:
            emit(_json(result.describe()))
            return
        for row in result.stages if until else ():
            emit(f"{row['kind']:<12}{row['title']}  {row['folder']}")
        if result.verdict:
            emit(result.verdict)
        if result.report:
            emit(f"report: {result.report}")
        made = sum(not row["cached"] for row in result.stages)
        typer.echo(
            f"{made} of {len(result.stages)} stages made, {time.monotonic() - started:.0f} s",
            err=True,
        )


def _tell(event: str, stage: Stage) -> None:
    if event == "cached":
        typer.echo(f"{stage.kind}: {stage.title} (done before)", err=True)


def _budget_line(name: str, budget: dict[str, Any]) -> str:
    """How many pixels and tokens a picture may become, as the plan shows it."""
    pixels = budget["max_pixels"] or "the processor's own"
    tokens = budget["visual_tokens_at_most"]
    counted = "" if tokens is None else f", at most {tokens:,} visual tokens"
    return f"{name}: pixels of a picture: {pixels}{counted}"


def _disk_line(need: dict[str, Any]) -> str:
    """What a cache will take, and of what that is the product."""
    size = f"unknown ({need['unknown']})"
    if need["bytes"] is not None:
        size = f"{'at most' if need['at_most'] else 'about'} {need['bytes'] / 2**30:,.3g} GiB"
    row, tokens, samples = (need[k] for k in ("bytes_per_token", "tokens_per_sample", "samples"))
    parts = [f"{row:,} bytes a token"] if row else []
    parts += [f"at most {tokens:,} tokens a sample"] if tokens else []
    parts += [f"{samples:,} samples"] if samples else []
    return f"disk: {need['what']} ({need['kind']}): {'; '.join([size, *parts])}"


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)


def _table(scored: dict[str, Any]) -> str:
    """The scores of a file, a line each, with the interval and n."""
    return "\n".join(
        f"{row['name']:<16}{row['value']:8.4f}  [{row['low']:.4f}, {row['high']:.4f}]  n {row['n']}"
        for row in scored["scores"].values()
    )
