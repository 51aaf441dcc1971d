"""Tables of quality: scores, their paired differences, answer lengths, groups of samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from limbeck.recipe.recipe import sighted
from limbeck.report.format import (
    MISSING,
    count,
    decimal,
    interval,
    percent,
    score_decimals,
    times,
)
from limbeck.report.table import Cell, Results, Table
from limbeck.report.verdict import difference, outcome

_DIFFERENCE_COLUMNS = ("pair", "metric", "difference", "each seed", "conclusion")

OUTCOMES = {
    "better": "better",
    "worse": "worse",
    "tie": "no difference we can tell",
    "not_measured": "not measured",
}


def scores_table(results: Results) -> Table:
    """Arms down, metrics across: mean over seeds with its interval."""
    scores = results["evaluation"]
    digits = _digits(scores)
    lengths = all("length_ratio" in arm for arm in scores["arms"])
    rows = []
    for arm in scores["arms"]:
        cells = [_arm_cell(arm)]
        for metric in scores["metrics"]:
            found = arm["scores"].get(metric["kind"])
            cells.append(_score_cell(found, digits[metric["kind"]]))
        if lengths:
            cells.append(Cell(times(arm["length_ratio"])))
        rows.append(tuple(cells))
    columns = [f"{m['name']} {'↑' if m['higher_is_better'] else '↓'}" for m in scores["metrics"]]
    columns += ["length"] if lengths else []
    note = (
        f"{count(scores['n'])} samples; brackets: {percent(scores['confidence'], 0)} bootstrap "
        f"interval over samples ({count(scores['bootstrap'])} resamples); ± standard deviation "
        "over seeds. ↑ more is better, ↓ less is better."
    )
    note += " Length: words of the answers to those of the references." if lengths else ""
    return Table("scores", "Scores", ("arm", *columns), tuple(rows), note)


def seeds_table(results: Results) -> Table:
    """Every model on its own: one row per arm and seed."""
    scores = results["evaluation"]
    digits = _digits(scores)
    rows = [
        (
            Cell(model["id"]),
            *(
                _score_cell(model["scores"].get(metric["kind"]), digits[metric["kind"]])
                for metric in scores["metrics"]
            ),
        )
        for model in scores["models"]
    ]
    columns = ("model", *(metric["name"] for metric in scores["metrics"]))
    return Table("seeds", "Scores of every model", columns, tuple(rows))


def differences_table(results: Results) -> Table:
    """The student's paired differences to every other arm, and what may be concluded."""
    scores = results["evaluation"]
    pairs = [("student", other) for other in others_of(scores)]
    note = (
        "Differences are paired: the same samples are resampled for both. One counts only when its "
        "interval excludes 0 and every seed agrees in sign."
    )
    rows = _difference_rows(scores, pairs)
    return Table("differences", "Paired differences", _DIFFERENCE_COLUMNS, rows, note)


def other_differences_table(results: Results) -> Table:
    """The paired differences between arms other than the student."""
    scores = results["evaluation"]
    shown = {frozenset(("student", other)) for other in others_of(scores)}
    pairs = dict.fromkeys(
        (one["a"], one["b"])
        for one in scores["differences"]
        if frozenset((one["a"], one["b"])) not in shown
    )
    rows = _difference_rows(scores, list(pairs))
    caption = "Paired differences between the other arms"
    return Table("other-differences", caption, _DIFFERENCE_COLUMNS, rows)


def others_of(scores: Mapping[str, Any]) -> list[str]:
    """What the student is compared with: the arms that see, and itself with blanked pictures."""
    names = [arm["arm"] for arm in scores["arms"] if arm["arm"] != "student"]
    return [name for name in names if sighted(name) in (name, "student")]


def lengths_table(results: Results) -> Table:
    """How long the answers are, beside the references; a guard against length bias."""
    rows = []
    for model in results["evaluation"]["models"]:
        found = model.get("lengths") or {}
        rows.append(
            (
                Cell(model["id"]),
                Cell(decimal(found.get("words_mean"), 1)),
                Cell(decimal(found.get("reference_words_mean"), 1)),
                Cell(times(found.get("ratio"))),
                Cell(decimal(found.get("new_tokens_mean"), 1)),
                Cell(percent(found.get("finished_share"))),
                Cell(percent(found.get("empty_share"))),
            )
        )
    columns = ("model", "words", "reference words", "ratio", "new tokens", "finished", "empty")
    note = (
        "Means per answer. An overlap metric punishes correct answers that are longer or shorter."
    )
    return Table("lengths", "Answer lengths", columns, tuple(rows), note)


def group_tables(results: Results) -> list[Table]:
    """One table per grouping of the samples: the headline metric of every arm in every group.

    By question type, exact match (the share of right answers) has a table besides.
    """
    scores, headline = results["evaluation"], results["headline"]
    names = {metric["kind"]: metric["name"] for metric in scores["metrics"]}
    tables: list[Table] = []
    for key in sorted(scores.get("groups") or {}, key=lambda name: name != "question_type"):
        kinds = [headline]
        if key == "question_type" and "exact_match" in names and headline != "exact_match":
            kinds.append("exact_match")
        for kind in kinds:
            caption = f"{names.get(kind, kind)} by {key.replace('_', ' ')}"
            tables.append(_group_table(scores, f"groups-{len(tables)}", caption, key, kind))
    return tables


def _group_table(
    scores: Mapping[str, Any], name: str, caption: str, key: str, kind: str | None
) -> Table:
    arms = [arm["arm"] for arm in scores["arms"]]
    places = _digits(scores).get(kind or "", 3)
    rows = []
    for group, by_arm in scores["groups"][key].items():
        found = [(by_arm.get(arm) or {}).get(kind) or {} for arm in arms]
        number = next((f["n"] for f in found if f.get("n") is not None), None)
        values = [_group_cell(f, places) for f in found]
        rows.append((Cell(str(group)), Cell(count(number)), *values))
    means = (scores.get("group_means") or {}).get(key)
    if means:
        found = [(means.get(arm) or {}).get(kind) or {} for arm in arms]
        number = next((f["n"] for f in found if f.get("n") is not None), None)
        values = [_group_cell(f, places) for f in found]
        rows.append((Cell("mean over these"), Cell(count(number)), *values))
    return Table(name, caption, (key.replace("_", " "), "n", *arms), tuple(rows))


def _group_cell(found: Mapping[str, Any], places: int) -> Cell:
    low = found.get("low")
    spread = interval(low, found.get("high"), places) if low is not None else ""
    return Cell(decimal(found.get("value"), places), spread)


def _difference_rows(
    scores: Mapping[str, Any], pairs: list[tuple[str, str]]
) -> tuple[tuple[Cell, ...], ...]:
    digits = _digits(scores)
    rows = []
    for a, b in pairs:
        for metric in scores["metrics"]:
            found = difference(scores, metric["kind"], a, b)
            if found is None:
                continue
            judged, why = outcome(found, metric["higher_is_better"])
            places = digits[metric["kind"]]
            seeds = [decimal(s["value"], places, signed=True) for s in found["per_seed"]]
            bounds = interval(found["low"], found["high"], places)
            clear = judged in ("better", "worse") and len(seeds) > 1
            rows.append(
                (
                    Cell(f"{a} \N{MINUS SIGN} {b}"),
                    Cell(metric["name"]),
                    Cell(decimal(found["mean"], places, signed=True), bounds),
                    Cell(", ".join(seeds) or MISSING),
                    Cell(_conclusion(a, judged), "" if clear else why, judged),
                )
            )
    return tuple(rows)


def _digits(scores: Mapping[str, Any]) -> dict[str, int]:
    return {
        metric["kind"]: score_decimals(
            found["mean"]
            for arm in scores["arms"]
            if (found := arm["scores"].get(metric["kind"])) is not None
        )
        for metric in scores["metrics"]
    }


def _arm_cell(arm: Mapping[str, Any]) -> Cell:
    seeds = [seed for seed in arm["seeds"] if seed is not None]
    return Cell(arm["arm"], f"{len(seeds)} seed{'s' if len(seeds) != 1 else ''}" if seeds else "")


def _score_cell(found: Mapping[str, Any] | None, digits: int) -> Cell:
    if not found:
        return Cell(MISSING)
    value = found.get("mean", found.get("value"))
    detail = interval(found.get("low"), found.get("high"), digits)
    if found.get("sd") is not None and len(found.get("per_seed") or ()) > 1:
        detail += f" ± {decimal(found['sd'], digits)}"
    return Cell(decimal(value, digits), detail if found.get("low") is not None else "")


def _conclusion(arm: str, judged: str) -> str:
    return f"{arm} {OUTCOMES[judged]}" if judged in ("better", "worse") else OUTCOMES[judged]
