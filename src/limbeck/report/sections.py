"""The report's sections after the verdict, in their order.

To add one: write a function that takes the results and returns a `Section`, or None where there is
nothing to show, and name it in SECTIONS. To add a table to a section: name it among its parts.
Tables without rows are left out, so that a function need not ask whether there is something.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import yaml

from limbeck.report import (
    cost_tables,
    evaluation_tables,
    fact_tables,
    failure_tables,
    figures,
    judge_tables,
    measured_tables,
    public_tables,
    score_tables,
)
from limbeck.report.ablation_plots import ablation_plots
from limbeck.report.ablation_tables import ablation_tables
from limbeck.report.format import count, percent
from limbeck.report.matches import match_plots, verbalisers_table
from limbeck.report.section import (
    Answers,
    Code,
    Columns,
    Figure,
    Figures,
    Finding,
    Findings,
    Folded,
    Gallery,
    Part,
    Section,
    Words,
    present,
)
from limbeck.report.table import Cell, Results, Table

facts = fact_tables.facts_table
MATCHES = (
    "Which of the teacher's layers each of the student's learnt from, in each quarter of the "
    "training: the darker, the more often."
)


def basis(results: Results) -> tuple[Part, ...]:
    """What stands right under the verdict: four answers, the claims it is made of, the floors."""
    claims, floors = results["verdict"]["claims"], results["floors"]
    plot = figures.difference_plot(results)
    confidence = percent(results["evaluation"]["confidence"], 0)
    caption = (
        f"Large dot: mean difference; bar: {confidence} interval of the paired difference; small "
        "dots: each seed. A bar that crosses the line at 0 proves nothing."
    )
    drawn = (Figure(plot, caption),) if plot else ()
    rests = Findings(
        "What the verdict rests on",
        tuple(Finding(c["outcome"], c["statement"], c["why"]) for c in claims),
    )
    looks = Findings(
        "Do they look at the pictures?",
        tuple(Finding(f["outcome"], f["sentence"], f["why"]) for f in floors),
    )
    apart = Figures(drawn, heading="The student against each other arm", wide=True)
    answers = Answers(tuple(results["answers"]))
    return present(answers, Columns((present(rests), present(apart))), looks)


def trade_off(results: Results) -> Section:
    """Quality against latency and memory, and what every arm saves."""
    plots = (
        (figures.trade_off(results, "latency"), "Quality against what one user waits for."),
        (
            figures.trade_off(results, "memory"),
            "Quality against peak memory, of the kind named on the axis.",
        ),
    )
    drawn = tuple(Figure(plot, caption) for plot, caption in plots if plot)
    intro = (
        "Up is better, left is cheaper. Bars are intervals of the score and the spread of the "
        "measurement; small dots are seeds."
    )
    if not drawn:
        intro = "Fewer than two arms were benchmarked, so there is no trade-off to draw."
    parts = present(Figures(drawn, wide=True), cost_tables.savings_table(results))
    return Section("trade-off", "What you give, what you get", "Trade-off", intro, parts)


def quality(results: Results) -> Section:
    """Scores, differences, lengths, groups."""
    others = score_tables.other_differences_table(results)
    nearer = evaluation_tables.fidelity_differences_table(results)
    matched = evaluation_tables.all_length_matched_table(results)
    as_long = evaluation_tables.as_long_as_references_table(results)
    parts = present(
        score_tables.scores_table(results),
        score_tables.differences_table(results),
        evaluation_tables.flips_table(results),
        score_tables.lengths_table(results),
        evaluation_tables.length_matched_table(results),
        evaluation_tables.fidelity_table(results),
        *score_tables.group_tables(results),
        public_tables.public_table(results),
        *(Folded(table.caption, present(table)) for table in (others, matched, as_long, nearer)),
        Folded("Every model and seed on its own", present(score_tables.seeds_table(results))),
    )
    return Section("scores", "Quality", "Scores", "", parts)


def judge(results: Results) -> Section | None:
    """What a model that was asked to judge says, and how far it can be believed."""
    found = results["judge"]
    if found is None:
        return None
    words = tuple(Words(text) for text in found["sentences"])
    parts = present(*words, *judge_tables.tables(results))
    return Section("judge", "What the judge says", "Judge", "", parts)


def ablation(results: Results) -> Section | None:
    """Which knob moved quality."""
    found = results.get("ablation")
    if found is None:
        return None
    plots = tuple(
        Figure(plot, f"{axis}: {caption}, with its interval; small dots: each seed.")
        for axis, plot, caption in ablation_plots(results)
    )
    tables = ablation_tables(results)
    shown = [table for table in tables if table.key != "ablation-metrics"]
    folded = [Folded(t.caption, present(t)) for t in tables if t.key == "ablation-metrics"]
    words = tuple(Words(text) for text in found["sentences"])
    warned = tuple(Words(f"Mind: {text}") for text in found["warnings"])
    parts = present(*words, *warned, Figures(plots), *shown, *folded)
    return Section("ablation", "Ablation", "Ablation", "", parts)


def failures(results: Results) -> Section | None:
    """Where the student is furthest behind the teacher."""
    found = results["failures"]
    if found is None:
        return None
    intro = (
        f"Of {count(found['n'])} samples the student is behind the teacher on "
        f"{count(found['behind'])}, even on {count(found['even'])} and ahead on "
        f"{count(found['ahead'])}. To look at them, sort the gallery by model furthest behind."
    )
    parts = present(failure_tables.groups_table(results), failure_tables.samples_table(results))
    return Section("failures", "Where the student fails", "Failures", intro, parts)


def cost(results: Results) -> Section:
    """Every measurement of the benchmark."""
    tables = cost_tables.benchmark_tables(results)
    measured = measured_tables.measured_tables(results)
    intro = (
        "Each model was measured alone in a process of its own. Fixed length gives the cost of a "
        "token, natural length what a user waits for."
    )
    if not tables and not measured:
        return Section("cost", "Cost", "Cost", "Nothing was benchmarked.", ())
    parts = present(
        *tables[:1],
        *measured,
        *(Folded(table.caption, present(table)) for table in tables[1:]),
        cost_tables.machines_table(results),
    )
    return Section("cost", "Cost", "Cost", intro, parts)


def training(results: Results) -> Section | None:
    """Loss curves, and where the teacher's distributions came from."""
    curves = tuple(
        Figure(plot, above=arm, legend=tuple(legend))
        for arm, plot, legend in figures.loss_plots(results)
    )
    parts = present(
        Figures(curves),
        fact_tables.training_table(results),
        fact_tables.growth_table(results),
        fact_tables.signals_table(results),
        verbalisers_table(results),
        fact_tables.matches_table(results),
        Figures(tuple(Figure(plot, MATCHES, above=model) for model, plot in match_plots(results))),
    )
    return Section("training", "Training", "Training", "", parts) if parts else None


def data(results: Results) -> Section:
    """What was trained on and evaluated, what was put aside, what the teacher answered."""
    found = results["data"]
    aside = found["quarantined"]["count"]
    intro = f"{count(aside)} row{'' if aside == 1 else 's'} put aside"
    intro += "." if aside else ": nothing was wrong with the data."
    reasons = found["quarantined"]["reasons"]
    beside = present(
        facts("labels", "Labels", results["labels"] or {}),
        facts("quarantine", "Put aside", reasons, "reason"),
    )
    histograms = tuple(Figure(plot) for _, plot in figures.histograms(results))
    parts = present(
        Columns((present(facts("data", "Counts", found["facts"])), beside)),
        fact_tables.distributions_table(found["distributions"]),
        Folded("Histograms", present(Figures(histograms)), in_markdown=False),
    )
    return Section("data", "Data and labels", "Data", intro, parts)


def provenance(results: Results) -> Section:
    """Stages, versions, metrics, recipe: what a number can be traced to."""
    evaluated = results["evaluated"]
    intro = f"Evaluated {evaluated}. " if evaluated else ""
    intro += "Every number on this page is in results.json beside it."
    metrics = tuple(
        (Cell(m["name"]), Cell(m["kind"]), Cell(m.get("signature") or ""))
        for m in results["evaluation"]["metrics"]
    )
    recipe = yaml.safe_dump(results["recipe"], sort_keys=False, allow_unicode=True)
    versions = facts("versions", "Versions", results["versions"], "package")
    parts = present(
        fact_tables.licences_table(results),
        Columns((present(fact_tables.stages_table(results)), present(versions))),
        Table("metrics", "Metrics", ("metric", "kind", "how it is computed"), metrics),
        Folded("The recipe, with all defaults", (Code(recipe),), in_markdown=False),
    )
    return Section("provenance", "Provenance", "Provenance", intro, parts)


SECTIONS: tuple[Callable[[Results], Section | None], ...] = (
    trade_off,
    quality,
    judge,
    ablation,
    failures,
    cost,
    training,
    data,
    provenance,
)
"""In the order of the pages; the gallery stands before the last."""


def sections_of(results: Results, gallery: Mapping[str, Any]) -> list[Section]:
    """The sections that have something to show."""
    found = [section for make in SECTIONS if (section := make(results)) is not None]
    return [*found[:-1], gallery_section(gallery), found[-1]]


def gallery_section(gallery: Mapping[str, Any]) -> Section:
    """The evaluated samples, to look at."""
    shown, total = len(gallery["samples"]), gallery["total"]
    chosen = ""
    if shown < total:
        chosen = ", evenly spaced over the evaluation and not chosen by score"
        if added := gallery["added"]:
            chosen += f", but for the {count(added)} on which the student is furthest behind"
    intro = (
        f"{count(shown)} of {count(total)} evaluated samples{chosen}. Every answer with its own "
        "scores; the address of the page keeps what you filter."
    )
    return Section("gallery", "Gallery", "Gallery", intro, (Gallery(gallery),), in_markdown=False)
