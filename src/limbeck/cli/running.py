"""Commands that make stages: all of a recipe's, or one stage with what it needs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from limbeck.cli.application import RECIPES, Debug, Json, Overrides, RecipePath, app, as_text
from limbeck.failures import reported

if TYPE_CHECKING:
    from limbeck.pipeline import Plan
    from limbeck.stages import Command, Stage


@app.command("run")
def run_command(
    recipe: RecipePath, overrides: Overrides = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Run every stage that is not done yet, from data to report."""
    run_until(recipe, overrides, None, as_json, debug)


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
        emit(
            as_text(planned.describe()) if as_json else "\n".join(describe_plan(planned.describe()))
        )
        _end_with_problems(planned)
        if strict and planned.needs["fits"] is False:
            raise typer.Exit(MemoryExhaustedError.exit_code)


def _stage_command(name: Command, text: str) -> None:
    @app.command(name, help=text)
    def command(
        recipe: RecipePath, overrides: Overrides = None, as_json: Json = False, debug: Debug = False
    ) -> None:
        run_until(recipe, overrides, name, as_json, debug)


_stage_command("data", "Read, check and store the data set.")
_stage_command("label", "Let the teacher answer; keep its answers and distributions.")
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
        str,
        typer.Option(
            help="with --predictions: metrics, separated by commas; with options a list as in a "
            "recipe, '[rouge_l, {kind: embedding_similarity, model: FOLDER}]'"
        ),
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
        run_until(recipe, overrides, "evaluate", as_json, debug)
        return
    if overrides:
        raise typer.BadParameter("--set needs a RECIPE")
    with reported(debug) as emit:
        from limbeck.errors import UsageError
        from limbeck.evaluate.metric_list import metrics_in
        from limbeck.evaluate.scoring import score_file

        try:
            scores = score_file(predictions, metrics_in(metrics))
        except UsageError as error:
            raise UsageError(error.what, where="--metrics", mend=error.mend) from error
        for warning in scores["warnings"]:
            typer.echo(f"warning: {warning}", err=True)
        emit(as_text(scores) if as_json else scores_table(scores))


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
        emit(as_text(found) if as_json else describe_public(found))


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
            planned = build_plan(ablation)
            stages = planned.stages
            design = ablate.describe_design(ablation)
            left = sum(not row.done for row in stages)
            design |= {"stages": len(stages), "to_do": left}
            lines = [point["name"] for point in design["points"]]
            emit(as_text(design) if as_json else "\n".join([*lines, f"{left} stages to do"]))
            _end_with_problems(planned)
            return
        first = os.environ.get("RANK", "0") == "0"
        result = run(ablation, on_event=_tell if first else None)
        if first:
            results = ablate.results_of(ablation)
            found = {**results["ablation"], "report": str(result.report)}
            text = f"{ablate.describe_ablation(results)}\n\nreport: {result.report}"
            emit(as_text(found) if as_json else text)


@app.command("encoders")
def encoders_command(
    recipe: RecipePath, overrides: Overrides = None, as_json: Json = False, debug: Debug = False
) -> None:
    """Distil image encoders into small students, with baselines, real labels and guards."""
    with reported(debug) as emit:
        from limbeck.encoders.graph import encoder_graph
        from limbeck.encoders.recipe import EncoderRecipe
        from limbeck.encoders.report import check_report
        from limbeck.pipeline import run
        from limbeck.recipe import load_recipe

        loaded = load_recipe(recipe, overrides or (), schema=EncoderRecipe)
        result = run(loaded, on_event=_tell, build=encoder_graph)
        text = f"{result.verdict}\nreport: {result.report}"
        emit(as_text(result.describe()) if as_json else text)
        check_report(result.report)


@app.command()
def demo(overrides: Overrides = None, as_json: Json = False, debug: Debug = False) -> None:
    """Run the recipe that comes along: no download, no GPU, minutes on two cores."""
    run_until(RECIPES / "demo.yaml", overrides, None, as_json, debug)


def run_until(
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
            emit(as_text(result.describe()))
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


def _end_with_problems(planned: Plan) -> None:
    """Say what a run would stop with, and exit with its code."""
    for problem in planned.problems:
        typer.echo(f"error: {problem}", err=True)
    if planned.problems:
        raise typer.Exit(planned.problems[0].exit_code)


def _tell(event: str, stage: Stage) -> None:
    if event == "cached":
        typer.echo(f"{stage.kind}: {stage.title} (done before)", err=True)


def scores_table(scored: dict[str, Any]) -> str:
    """The scores of a file, a line each with interval and n; means over types, and lengths."""

    def line(name: str, row: dict[str, Any]) -> str:
        spread = f"[{row['low']:.4f}, {row['high']:.4f}]"
        return f"{name:<24}{row['value']:8.4f}  {spread}  n {row['n']}"

    lines = [line(row["name"], row) for row in scored["scores"].values()]
    for key, means in scored["group_means"].items():
        for kind, row in means.items():
            lines.append(line(f"{kind} by {key}", row) + f" in {row['groups']} groups")
    lengths, matched = scored["lengths"], scored["length_matched"]
    if lengths["ratio"] is not None:
        lines.append(
            f"{'words':<24}{lengths['words_mean']:8.1f}  {lengths['ratio']:.2f} times the"
            f" {lengths['reference_words_mean']:.1f} of the references;"
            f" {matched['n']} of {scored['n']} answers within a factor of {matched['factor']:g}"
        )
    return "\n".join(lines)
