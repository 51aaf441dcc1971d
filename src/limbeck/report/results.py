"""Everything the report says, assembled from the stages' files into one JSON-able value.

The pages are rendered from this value alone, so that a number in them is a number in a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from limbeck.errors import DataError
from limbeck.recipe.design import Design
from limbeck.report import cost as costs_of
from limbeck.report.ablation import ablation_of
from limbeck.report.answers import answers_of
from limbeck.report.failures import failures_of
from limbeck.report.floors import floor_warnings, floors
from limbeck.report.judge_tables import judge_warnings, judged_by
from limbeck.report.licences import licences_of
from limbeck.report.matches import over_time
from limbeck.report.stage_files import clean, manifest_of, read_json, read_jsonl
from limbeck.report.verdict import headline_metric, verdict
from limbeck.store import versions

MAX_CURVE_POINTS = 500
UNFINISHED_SHARE = 0.05
"""Above this share of answers cut by the token limit, the report warns."""
BUSY_CORES = 0.3
"""Above this many cores busy with other work during a benchmark, the report warns."""


@dataclass(frozen=True)
class ReportModel:
    """One compared model: its arm and seed, and the folders of its trainings and benchmark.

    Of several trainings each began with the student of the one before.
    """

    id: str
    arm: str
    seed: int | None
    trainings: Sequence[Path] = ()
    benchmark: Path | None = None


@dataclass(frozen=True)
class ReportInputs:
    """What a report is made from: the recipe and the folders of the finished stages."""

    name: str
    recipe: dict[str, Any]
    data: Path
    evaluation: Path
    labels: Path | None = None
    models: Sequence[ReportModel] = ()
    verbalisers: Mapping[str, Path] = field(default_factory=dict[str, Path])
    judge: Path | None = None
    public: Path | None = None
    served_teacher: bool = False
    stages: Sequence[dict[str, Any]] = field(default_factory=tuple)
    ablation: Design | None = None


def assemble(inputs: ReportInputs) -> dict[str, Any]:
    """Read every stage's results, compute costs and verdict.

    Raises:
        DataError: a file is missing or cannot be read; names it.
    """
    scores = read_json(inputs.evaluation / "scores.json")
    benchmarks = {
        model.id: read_json(model.benchmark / "results.json")
        for model in inputs.models
        if model.benchmark is not None
    }
    training = {
        model.id: training_of(model.trainings) for model in inputs.models if model.trainings
    }
    costs = arm_costs(inputs.models, benchmarks)
    steps = steps_by_arm(inputs.models, training)
    headline = (inputs.recipe.get("report") or {}).get("headline")
    served = inputs.served_teacher
    judged = verdict(scores, headline=headline, costs=costs, steps=steps, served_teacher=served)
    metric = headline_metric(scores, headline)
    teacher = costs.get("teacher")
    results = {
        "name": inputs.name,
        "headline": metric["kind"] if metric else None,
        "verdict": judged.as_dict(),
        "floors": floors(scores, metric),
        "judge": judged_by(inputs.judge),
        "public": read_json(inputs.public / "results.json") if inputs.public else None,
        "evaluation": scores,
        "costs": costs,
        "gains": {
            arm: costs_of.gains(teacher, cost)
            for arm, cost in costs.items()
            if teacher and arm != "teacher"
        },
        "benchmark": benchmarks,
        "training": training,
        "verbalisers": {
            name: manifest_of(folder).get("summary", {})
            for name, folder in inputs.verbalisers.items()
        },
        "models": [{"id": m.id, "arm": m.arm, "seed": m.seed} for m in inputs.models],
        "data": data_of(inputs.data),
        "labels": manifest_of(inputs.labels).get("summary") if inputs.labels else None,
        "stages": list(inputs.stages),
        "evaluated": manifest_of(inputs.evaluation).get("finished"),
        "versions": versions(),
        "recipe": {key: value for key, value in inputs.recipe.items() if key != "work"},
    }
    if inputs.ablation is not None:
        results["ablation"] = ablation_of(inputs.ablation, results)
    results["licences"] = licences_of(inputs.recipe, results["data"]["facts"])
    results["failures"] = failures_of(inputs.evaluation, scores, metric)
    results["warnings"] = warnings_of(results)
    if served and costs:
        results["warnings"].append(
            "the teacher is served: its size is unknown and it was not timed, so that nothing is"
            " said about savings against it"
        )
    results["answers"] = answers_of(results)
    return clean(results)


def arm_costs(
    models: Sequence[ReportModel], benchmarks: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Arm -> cost, for the arms of which at least one model was benchmarked."""
    by_arm: dict[str, list[dict[str, Any]]] = {}
    for model in models:
        if model.id in benchmarks:
            by_arm.setdefault(model.arm, []).append(benchmarks[model.id])
    return {arm: costs_of.arm_cost(found) for arm, found in by_arm.items()}


def training_of(folders: Sequence[Path]) -> dict[str, Any]:
    """A student's trainings: the last one's summary, and curves over all of them, thinned.

    Steps and seconds count on from one training to the next; `phases` are the steps at which a
    further one begins.
    """
    rows: list[dict[str, Any]] = []
    manifests = [manifest_of(folder) for folder in folders]
    phases: list[int] = []
    for folder in folders:
        own = [row for row in read_jsonl(folder / "metrics.jsonl") if "step" in row]
        step, seconds = (rows[-1]["step"], rows[-1]["seconds"]) if rows else (0, 0.0)
        phases += [step] if rows else []
        rows += [
            {**row, "step": row["step"] + step, "seconds": row["seconds"] + seconds} for row in own
        ]
    summary = manifests[-1].get("summary", {})
    kept = thinned(rows, MAX_CURVE_POINTS)
    parts = dict.fromkeys(name for row in kept for name in row.get("losses") or {})
    columns = ("step", "loss", "learning_rate", "tokens_per_second", "seconds")
    spent = [manifest["seconds"] for manifest in manifests if "seconds" in manifest]
    return {
        "summary": summary,
        "seconds": sum(spent) if spent else None,
        "steps": rows[-1]["step"] if rows else None,
        "phases": phases,
        "seconds_per_step": rows[-1]["seconds"] / rows[-1]["step"] if rows else None,
        "data_wait_share": waiting_share(rows),
        "matches": next((row["matches"] for row in reversed(rows) if row.get("matches")), None),
        "matches_over_time": over_time(rows),
        "rows": len(rows),
        "curve": {
            **{name: [row.get(name) for row in kept] for name in columns},
            "losses": {
                name: [(row.get("losses") or {}).get(name) for row in kept] for name in parts
            },
        },
    }


def waiting_share(rows: Sequence[dict[str, Any]]) -> float | None:
    """Of the whole training time; None where a row does not tell (an earlier version's)."""
    if not rows or any("data_wait_share" not in row for row in rows):
        return None
    ends = [row["seconds"] for row in rows]
    spans = [end - start for start, end in zip([0.0, *ends], ends, strict=False)]
    waited = sum(row["data_wait_share"] * s for row, s in zip(rows, spans, strict=True))
    return waited / max(ends[-1], 1e-9)


def thinned(rows: Sequence[dict[str, Any]], limit: int) -> list[dict[str, Any]]:
    """At most `limit` rows, evenly spaced, the first and the last among them."""
    if len(rows) <= limit:
        return list(rows)
    spacing = (len(rows) - 1) / (limit - 1)
    return [rows[round(i * spacing)] for i in range(limit)]


def steps_by_arm(
    models: Sequence[ReportModel], training: Mapping[str, dict[str, Any]]
) -> dict[str, list[int]]:
    """Arm -> optimiser steps of each of its trained models."""
    steps: dict[str, list[int]] = {}
    for model in models:
        found = training.get(model.id, {}).get("steps")
        if found is not None:
            steps.setdefault(model.arm, []).append(found)
    return steps


def data_of(folder: Path) -> dict[str, Any]:
    """The data stage's statistics: plain counts, distributions, quarantine, warnings."""
    statistics: dict[str, Any] = read_json(folder / "statistics.json")
    quarantined = statistics.pop("quarantined")
    warnings = statistics.pop("warnings")
    shared = statistics.pop("images_in_several_splits")
    if (copies := statistics.get("duplicate_images")) is not None:
        found = {
            f"{leak['split']} in {leak['also_in']}": leak["samples"] for leak in copies["leaks"]
        }
        kept = {key: copies[key] for key in ("groups", "copies")}
        statistics["duplicate_images"] = {**kept, "leaking_samples": found}
    distributions: dict[str, Any] = {}
    facts = _without_distributions(statistics, "", distributions)
    return {
        "facts": {**facts, "images_in_several_splits": shared["count"]},
        "distributions": distributions,
        "quarantined": quarantined,
        "warnings": warnings,
    }


def _without_distributions(
    value: dict[str, Any], prefix: str, distributions: dict[str, Any]
) -> dict[str, Any]:
    """The plain facts of a nested value; what has quantiles is moved to `distributions`."""
    facts: dict[str, Any] = {}
    for key, item in value.items():
        name = f"{prefix} {key}".strip().replace("_", " ")
        if not isinstance(item, dict):
            if item is not None:
                facts[key] = item
        elif "quantiles" in item:
            distributions[name] = item
        elif kept := _without_distributions(item, name, distributions):
            facts[key] = kept
    return facts


def warnings_of(results: Mapping[str, Any]) -> list[str]:
    """What a reader should know before trusting a number: the evaluation's warnings and ours."""
    scores = results["evaluation"]
    found = [str(text) for text in (*scores["warnings"], *results["data"]["warnings"])]
    found += floor_warnings(results["floors"])
    found += judge_warnings(results["judge"])
    found += (results["public"] or {}).get("warnings", ())
    for arm, gained in results["gains"].items():
        found += [f"{arm} was not benchmarked like the teacher: {how}" for how in gained["mixed"]]
    for model, measured in results["benchmark"].items():
        busy = measured.get("other_busy_cores") or 0.0
        if busy > BUSY_CORES:
            found.append(f"other work kept {busy:.1f} cores busy while {model} was benchmarked")
    for model in scores["models"]:
        finished = (model.get("lengths") or {}).get("finished_share")
        if finished is not None and 1 - finished > UNFINISHED_SHARE:
            found.append(
                f"{1 - finished:.0%} of the answers of {model['id']} were cut by the limit"
            )
    if "unequal steps" in results["verdict"]["sentence"]:
        found.append("student and control were trained for unequal numbers of steps")
    trained = [arm for arm in scores["arms"] if arm["arm"] in ("student", "control")]
    if trained and all(len(arm["seeds"]) < 2 for arm in trained):
        found.append("one seed only: how much the result depends on chance in training is unknown")
    return list(dict.fromkeys(found))


def require_equal_samples(predictions: Mapping[str, Sequence[dict[str, Any]]]) -> None:
    """All models must have answered the same samples in the same order.

    Raises:
        DataError: they have not; names the model.
    """
    order: list[Any] | None = None
    for model, rows in predictions.items():
        ids = [row["id"] for row in rows]
        order = ids if order is None else order
        if ids != order:
            raise DataError(
                "was not evaluated on the samples of the other models",
                where=f"predictions-{model}.jsonl",
                mend="run the evaluation again",
            )
