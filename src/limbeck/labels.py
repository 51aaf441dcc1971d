"""`limbeck labels`: look at what the teacher answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from limbeck.data.labels import read_labels
from limbeck.data.samples import read_samples
from limbeck.errors import DataError
from limbeck.labelling.share import Share
from limbeck.pipeline import build_plan
from limbeck.recipe import Recipe
from limbeck.report.labels import labels_page, summarise_labels
from limbeck.store import Store, write_atomic

PAGE = "labels.html"


def look_at_labels(recipe: Recipe, page: Path | None = None) -> dict[str, Any]:
    """Counts, quantiles and examples of a recipe's labels, and a page to look at them.

    A label stage that is under way, or stopped because too many answers were unfit, can be looked
    at as far as it came.

    Args:
        recipe: whose label stage is looked at.
        page: where the page is written; None: into the run's folder.

    Returns:
        What `summarise_labels` gives, with the stage's `folder`, whether it is `finished`, and
        the `page`.

    Raises:
        LimbeckError: the recipe cannot run as it is, or has not been labelled yet.
    """
    plan = build_plan(recipe, until="label")
    if plan.problems:
        raise plan.problems[0]
    store = Store(Path(recipe.work))
    planned = next(row for row in plan.stages if row.stage.kind == "labels")
    stage, reads = planned.stage, planned.stage.reads["data"]
    partial = planned.folder.with_name(f"{planned.folder.name}-partial")
    if planned.done:
        folder = store.open(stage.kind, stage.fingerprint)
        labels = read_labels(folder)
    elif partial.is_dir():
        folder = partial
        labels = list(Share(partial).done(None).values())
    else:
        raise DataError(
            "there are no labels yet", where=str(planned.folder), mend="run limbeck label first"
        )
    data = store.open(reads.kind, reads.fingerprint)
    samples = read_samples(data, recipe.label.splits, recipe.label.limit)
    order = {sample.id: number for number, sample in enumerate(samples)}
    labels.sort(key=lambda row: order.get(row.sample_id, -1))
    found = summarise_labels(labels, samples)
    page = page or store.root / "runs" / recipe.name / PAGE
    write_atomic(page, labels_page(found, labels, samples, data, name=recipe.name))
    return {**found, "finished": planned.done, "folder": str(folder), "page": str(page)}
