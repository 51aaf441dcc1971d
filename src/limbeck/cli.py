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
    recipe: RecipePath,
    gpu: Annotated[
        str | None, typer.Option(help="plan for such a card, 24GiB, or for several, 4x80GiB")
    ] = None,
    ram: Annotated[
        str | None, typer.Option(help="plan for a machine without a GPU and with so much memory")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="run a few batches of each model to tell the time")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="exit with 6 where a stage does not fit the memory")
    ] = False,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Show what would run, what it needs and whether that fits; touches nothing."""
    with reported(debug) as emit:
        from limbeck.errors import MemoryExhaustedError
        from limbeck.pipeline import build_plan
        from limbeck.planning.lines import describe_plan
        from limbeck.recipe import load_recipe

        planned = build_plan(
            load_recipe(recipe, overrides or ()), gpu=gpu, ram=ram, measure=measure
        )
        emit(_json(planned.describe()) if as_json else "\n".join(describe_plan(planned.describe())))
        for problem in planned.problems:
            typer.echo(f"error: {problem}", err=True)
        if planned.problems:
            raise typer.Exit(planned.problems[0].exit_code)
        if strict and planned.needs["fits"] is False:
            raise typer.Exit(MemoryExhaustedError.exit_code)


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


@app.command("public")
def public_command(
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="a recipe file, or the folder of one model")
    ],
    tasks: Annotated[
        str | None, typer.Option(help="tasks of lmms-eval, separated by commas")
    ] = None,
    models: Annotated[
        str | None, typer.Option(help="with a recipe: its models, separated by commas")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="first samples of each task only")] = None,
    include: Annotated[
        Path | None, typer.Option(help="folder with tasks of your own, as lmms-eval wants them")
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Run a model's folder or a recipe's models on public benchmarks, by lmms-eval."""
    with reported(debug) as emit:
        from limbeck.public import describe_public, run_public

        chosen = {
            "tasks": tasks and [name.strip() for name in tasks.split(",")],
            "models": models and [name.strip() for name in models.split(",")],
            "limit": limit,
            "include": include and str(include),
        }
        found = run_public(source, chosen, overrides or (), on_event=_tell)
        for warning in found["warnings"]:
            typer.echo(f"warning: {warning}", err=True)
        emit(_json(found) if as_json else describe_public(found))


_stage_command("benchmark", "Measure latency, throughput and memory of what was evaluated.")
_stage_command("report", "Write the report from the results files.")


@app.command("ablate")
def ablate_command(
    recipe: RecipePath,
    grid: Annotated[
        list[str] | None,
        typer.Option(metavar="A.B=1,2", help="an axis: a field and its values; several combine"),
    ] = None,
    listed: Annotated[
        Path | None, typer.Option("--list", metavar="FILE", help="YAML: name -> overrides")
    ] = None,
    one_at_a_time: Annotated[
        bool, typer.Option(help="vary one axis, the others as in the recipe")
    ] = False,
    controls: Annotated[
        bool, typer.Option(help="train plain cross-entropy at every point that needs its own")
    ] = False,
    seeds: Annotated[
        str | None, typer.Option(help="in place of the recipe's, separated by commas")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="by which effects are judged; default: the headline")
    ] = None,
    plan_only: Annotated[
        bool, typer.Option("--plan", help="list the points; make nothing")
    ] = False,
    overrides: Overrides = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Vary fields of a recipe over a grid or a list, and say which of them moved quality."""
    with reported(debug) as emit:
        from limbeck import ablate
        from limbeck.pipeline import build_plan, run

        asked = ablate.Asked(tuple(grid or ()), listed, one_at_a_time, controls, seeds, metric)
        ablation = ablate.ablation_recipe(recipe, overrides or (), asked)
        if plan_only:
            stages = build_plan(ablation).stages
            design = ablate.describe_design(ablation)
            left = sum(not row.done for row in stages)
            design |= {"stages": len(stages), "to_do": left}
            lines = [point["name"] for point in design["points"]]
            emit(_json(design) if as_json else "\n".join([*lines, f"{left} stages to do"]))
            return
        first = os.environ.get("RANK", "0") == "0"
        result = run(ablation, on_event=_tell if first else None)
        if first:
            results = ablate.results_of(ablation)
            found = {**results["ablation"], "report": str(result.report)}
            text = f"{ablate.describe_ablation(results)}\n\nreport: {result.report}"
            emit(_json(found) if as_json else text)


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


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)


def _table(scored: dict[str, Any]) -> str:
    """The scores of a file, a line each, with the interval and n."""
    return "\n".join(
        f"{row['name']:<16}{row['value']:8.4f}  [{row['low']:.4f}, {row['high']:.4f}]  n {row['n']}"
        for row in scored["scores"].values()
    )
