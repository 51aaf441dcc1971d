"""The report stage: results.json, README.md and a page, written whether or not a guard fired."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from markupsafe import Markup

from limbeck.encoders.guards import reached
from limbeck.encoders.losses import EncoderLoss
from limbeck.encoders.recipe import CROSS_ENTROPY, EncoderRecipe
from limbeck.encoders.students import EncoderStudent
from limbeck.encoders.tables import headline, tables_of
from limbeck.encoders.teachers import EncoderTeacher
from limbeck.errors import GuardError
from limbeck.report.pages import environment, policy_for, text_of
from limbeck.store import write_atomic, write_json

EXPLAINED = (
    "The published tables give the size of the towers alone, although four of the six students "
    "take the teacher's features, so that the teacher runs for every picture; deployed is what has "
    "to be shipped, and such students are called adapters (teacher required).",
    "Their accuracy of 1.00 on 200 classes came from comparing samples with their own index in "
    "the batch; accuracy here is against real labels over the whole test split, with controls that "
    "fail the run where an untrained student or shuffled labels do as well.",
)


def write_encoder_report(
    recipe: EncoderRecipe, left_out: Sequence[str], inputs: Mapping[str, Path], output: Path
) -> dict[str, Any]:
    """Write the report into `output`; returns its verdict and how many guards fired."""
    results = assemble(recipe, left_out, inputs)
    write_json(output / "results.json", results)
    values = {
        "name": results["name"],
        "sentence": results["verdict"],
        "explained": EXPLAINED,
        "lists": [
            ("Guards that fired", results["failures"]),
            ("Warnings", results["warnings"]),
            ("Left out", results["left_out"]),
        ],
        "tables": tables_of(results),
        "colours": {},
    }
    page = environment(html=True).get_template("encoders.html.jinja")
    style = Markup(text_of("page.css"))
    write_atomic(output / "index.html", page.render(**values, style=style, policy=policy_for("")))
    text = environment(html=False).get_template("encoders.md.jinja").render(**values)
    write_atomic(output / "README.md", re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")
    return {"verdict": results["verdict"], "failures": len(results["failures"])}


def check_report(page: Path | None) -> None:
    """Fail where a guard fired; the report beside `page` says which.

    Raises:
        GuardError: the first of them.
    """
    if page is None:
        return
    failures = json.loads((page.parent / "results.json").read_text())["failures"]
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise GuardError(f"{failures[0]}{more}", where=str(page))


def assemble(
    recipe: EncoderRecipe, left_out: Sequence[str], inputs: Mapping[str, Path]
) -> dict[str, Any]:
    """All figures of the study, of the stages' files."""
    cells: list[dict[str, Any]] = []
    teachers: dict[str, Any] = {}
    failures: list[str] = []
    warnings: list[str] = []
    for name, folder in inputs.items():
        kind, _, path = name.partition("_")
        if kind != "scores":
            continue
        found = json.loads((folder / "scores.json").read_text())
        if path.count("/") == 1:
            teachers[path] = found
            continue
        failures += [f"{path}: {text}" for text in found["failures"]]
        warnings += [f"{path}: {text}" for text in found["warnings"]]
        cells.append(_cell(recipe, path, found, inputs))
    if len(recipe.seeds) < 3:
        warnings.append("fewer than 3 seeds: the spread of the seeds is not known")
    judged = [cell for cell in cells if cell["against_cross_entropy"] is not None]
    better = sum(cell["against_cross_entropy"]["low"] > 0 for cell in judged)
    worse = sum(cell["against_cross_entropy"]["high"] < 0 for cell in judged)
    verdict = (
        f"Of {len(judged)} distilled students, {better} did better than the same student trained "
        f"on the labels alone and {worse} did worse; the others cannot be told apart from it. "
        + (f"{len(failures)} guards fired." if failures else "No guard fired.")
    )
    return {
        "name": recipe.name,
        "verdict": verdict,
        "epochs": list(recipe.training.epochs),
        "seeds": list(recipe.seeds),
        "teachers": teachers,
        "cells": cells,
        "failures": failures,
        "warnings": warnings,
        "left_out": list(left_out),
    }


def _cell(
    recipe: EncoderRecipe, path: str, found: Mapping[str, Any], inputs: Mapping[str, Path]
) -> dict[str, Any]:
    dataset, teacher, student, arm = path.split("/")
    options = cast(EncoderStudent, recipe.students[student])
    seconds = [
        json.loads((inputs[f"student_{path}/{seed}"] / "training.json").read_text())["seconds"]
        for seed in recipe.seeds
    ]
    cost = inputs.get(f"cost_{dataset}/{teacher}/{student}")
    epochs = {
        str(epoch): {
            "scores": found["scores"][str(epoch)],
            "seconds": float(np.mean([each[:epoch] for each in seconds])),
        }
        for epoch in recipe.training.epochs
    }
    trains_head = any(cast(EncoderLoss, loss).trains_head for loss in recipe.all_arms()[arm].losses)
    name = headline(found["scores"]["0"], trains_head)
    baseline = inputs[f"scores_{dataset}/{teacher}/{student}/{CROSS_ENTROPY}"]
    against = None
    if arm != CROSS_ENTROPY:
        settings = recipe.evaluate
        against = reached(
            _hits(inputs[f"scores_{path}"], name),
            _hits(baseline, name),
            resamples=settings.bootstrap,
            confidence=settings.confidence,
        )
    return {
        "dataset": dataset,
        "teacher": teacher,
        "student": student,
        "arm": arm,
        "kind": options.kind,  # type: ignore[attr-defined]
        "placed": "from pixels" if options.from_pixels else "adapter (teacher required)",
        "towers_mib": found["towers_mib"],
        "reads_text": cast(EncoderTeacher, recipe.teachers[teacher]).reads_text,
        "headline": name,
        "untrained": found["scores"]["0"],
        "epochs": epochs,
        "judged_by": found["judged_by"],
        "controls": found["controls"],
        "against_cross_entropy": against,
        "cost": None if cost is None else json.loads((cost / "cost.json").read_text()),
    }


def _hits(folder: Path, name: str) -> np.ndarray:
    from safetensors.numpy import load_file

    from limbeck.encoders.scoring import HITS

    return load_file(folder / HITS)[name]
