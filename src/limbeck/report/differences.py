"""Two results files, quantity by quantity: what changed, by how much, and whether that is noise.

Both files are those of a benchmark stage or both those of a run. What was measured of the same
thing in the same way is divided, B by A; where conditions differ (another machine, another version)
the pair is labelled as mixed; where the work itself differed (other samples, another length)
nothing is divided, and the reason is said. A difference is beyond the spread when the ranges of
single generations (5th to 95th percentile) do not overlap, and, of scores, when their intervals do
not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from limbeck.errors import UsageError
from limbeck.report import cost as costs_of
from limbeck.report.results import BUSY_CORES
from limbeck.report.stage_files import read_json

RESULTS = "results.json"
CONDITIONS = ("precision", "runtime", "machine", "client", "memory_method")
CONDITIONS += ("prompt_tokens_mean", "visual_tokens_mean", "files_dropped", "other_busy_cores")
"""What leaves a pair comparable, but mixed."""
WORK = ("samples", "seed", "split")
"""What decides which samples were run, in every regime."""
LENGTHS = {"natural_length": "max_new_tokens", "fixed_length": "new_tokens"}
WITHOUT_WORK = ("load", "cold_start")
"""Regimes of which loading is the same whatever samples were run."""

Found = dict[str, Any]


def compare_files(first: Path, second: Path) -> Found:
    """What differs between two results files (or folders that hold them), as plain values.

    Returns:
        `conditions`: what was not alike; `measurements` and `scores`: a row for each quantity that
        both have, with `ratio` or `difference` and `beyond_spread` (None where no spread is known);
        `not_compared`: what was left out, and why.

    Raises:
        DataError: a file is missing or broken.
        UsageError: they are no results files, or of two kinds.
    """
    a, b = _read(first), _read(second)
    kinds = _kind(a, first), _kind(b, second)
    if kinds[0] != kinds[1]:
        raise UsageError(
            f"one is the results of a {kinds[0]}, the other of a {kinds[1]}",
            where=f"{first}, {second}",
            mend="give two of a kind",
        )
    found: Found = {
        "kind": kinds[0],
        "a": str(first),
        "b": str(second),
        "conditions": [],
        "measurements": [],
        "scores": [],
        "not_compared": [],
    }
    models_a, models_b = _models(a), _models(b)
    _only_in_one("", models_a, models_b, found)
    for name in (name for name in models_a if name in models_b):
        _compare_model(name, models_a[name], models_b[name], found)
    if kinds[0] == "run":
        _compare_runs(a, b, found)
    return found


def _compare_model(name: str, a: Found, b: Found, found: Found) -> None:
    """One model's sizes and measurements."""
    differing = [
        (path, old, new)
        for condition in CONDITIONS
        for path, old, new in _differences(
            _condition(a, condition), _condition(b, condition), condition
        )
    ]
    found["conditions"] += [
        {"model": name, "what": what, "a": old, "b": new} for what, old, new in differing
    ]
    mixed = list(dict.fromkeys(what.split(".")[0] for what, _, _ in differing))
    for size in costs_of.SIZES:
        if a.get(size) and b.get(size):
            row = {"model": name, "regime": "size", "name": size, "unit": "", "counted": True}
            found["measurements"].append(_row(row, {"value": a[size]}, {"value": b[size]}, []))
    by_place = [
        {(one["regime"], one["name"]): one for one in model["measurements"]} for model in (a, b)
    ]
    _only_in_one(name, by_place[0], by_place[1], found)
    for place, one in by_place[0].items():
        other = by_place[1].get(place)
        if other is None:
            continue
        reason = _other_work(place[0], a, b) or _other_quantity(one, other)
        if reason is None and not (one["value"] and other["value"] is not None):
            reason = "there is no value to divide by"
        if reason is not None:
            _leave_out(found, name, " ".join(place), reason)
            continue
        row = {
            "model": name,
            **{key: one[key] for key in ("regime", "name", "unit")},
            "memory_kind": one.get("memory_kind"),
        }
        found["measurements"].append(_row(row, one, other, mixed))


def _condition(model: Found, name: str) -> Any:
    """What a model was measured under; work beside it counts only where it disturbs."""
    if name == "files_dropped":
        return (model.get("page_cache") or {}).get("dropped")
    if name == "other_busy_cores":
        busy = model.get(name) or 0.0
        return busy if busy > BUSY_CORES else 0.0
    return model.get(name)


def _row(row: Found, a: Found, b: Found, mixed: list[str]) -> Found:
    ratio = b["value"] / a["value"]
    bounds = [one.get(end) for one in (a, b) for end in ("low", "high")]
    beyond = None
    if None not in bounds:
        beyond = bounds[1] < bounds[2] or bounds[3] < bounds[0]
    elif row.get("counted"):
        beyond = ratio != 1
    return {
        **row,
        "a": {key: a.get(key) for key in ("value", "low", "high", "n")},
        "b": {key: b.get(key) for key in ("value", "low", "high", "n")},
        "ratio": ratio,
        "beyond_spread": beyond,
        "b_is": _judged(row["name"], ratio),
        "mixed": mixed,
    }


def _judged(name: str, ratio: float) -> str | None:
    """Better or worse for the user; None where it is neither."""
    if name in costs_of.WITHOUT_DIRECTION or ratio == 1:
        return None
    return "better" if (ratio > 1) == (name in costs_of.HIGHER_IS_BETTER) else "worse"


def _other_work(regime: str, a: Found, b: Found) -> str | None:
    """Why a regime was not the same work in both."""
    if regime in WITHOUT_WORK[:1]:
        return None
    settings = [{**(one.get("settings") or {}), **one} for one in (a, b)]
    length = next((field for part, field in LENGTHS.items() if part in regime), None)
    fields = (*WORK, *([length] if length else []))
    if regime == "cold_start":
        fields = (*fields, "new_tokens")
    for name in fields:
        old, new = (one.get(name) for one in settings)
        if old != new:
            return f"{name} differs ({old} and {new})"
    return None


def _other_quantity(a: Found, b: Found) -> str | None:
    for key in costs_of.SAME:
        if a.get(key) != b.get(key):
            return f"{key.replace('_', ' ')} differs ({a.get(key)} and {b.get(key)})"
    return None


def _compare_runs(a: Found, b: Found, found: Found) -> None:
    """Versions, recipe and data of two runs, and their scores."""
    for what in ("versions", "recipe"):
        found["conditions"] += [
            {"model": "", "what": path, "a": old, "b": new}
            for path, old, new in _differences(a.get(what), b.get(what), what)
        ]
    mixed: list[str] = []
    data = [_fingerprint(one, "data") for one in (a, b)]
    if data[0] != data[1]:
        mixed.append("data")
        found["conditions"].append({"model": "", "what": "data", "a": data[0], "b": data[1]})
    scores = a["evaluation"], b["evaluation"]
    if scores[0]["n"] != scores[1]["n"]:
        mixed.append("samples")
    metrics = [{one["kind"]: one for one in each["metrics"]} for each in scores]
    _only_in_one("", metrics[0], metrics[1], found)
    arms = [{arm["arm"]: arm for arm in each["arms"]} for each in scores]
    for name in (name for name in arms[0] if name in arms[1]):
        for kind in (kind for kind in metrics[0] if kind in metrics[1]):
            signatures = [each[kind].get("signature") for each in metrics]
            if signatures[0] != signatures[1]:
                reason = (
                    f"the metric is computed differently ({' and '.join(map(str, signatures))})"
                )
                _leave_out(found, name, kind, reason)
                continue
            old, new = (each[name]["scores"].get(kind) for each in arms)
            if old and new:
                higher = metrics[0][kind].get("higher_is_better", True)
                found["scores"].append(_score(name, metrics[0][kind], old, new, higher, mixed))


def _score(model: str, metric: Found, a: Found, b: Found, higher: bool, mixed: list[str]) -> Found:
    difference = b["mean"] - a["mean"]
    return {
        "model": model,
        "metric": metric["kind"],
        "name": metric["name"],
        "a": {key: a.get(key) for key in ("mean", "low", "high", "n")},
        "b": {key: b.get(key) for key in ("mean", "low", "high", "n")},
        "difference": difference,
        "beyond_spread": a["high"] < b["low"] or b["high"] < a["low"],
        "b_is": None if not difference else "better" if (difference > 0) == higher else "worse",
        "mixed": mixed,
    }


def _models(results: Found) -> dict[str, Found]:
    """Name -> what was measured; the one model of a benchmark stage has no name."""
    if "costs" not in results:
        return {"": results}
    raw: dict[str, Found] = {}
    for model in results["models"]:
        if model["id"] in results["benchmark"]:
            raw.setdefault(model["arm"], results["benchmark"][model["id"]])
    found = {arm: {**raw.get(arm, {}), **cost} for arm, cost in results["costs"].items()}
    return {**found, **{f"{k} (served)": v for k, v in results.get("served", {}).items()}}


def _read(path: Path) -> Found:
    file = path / RESULTS if path.is_dir() else path
    if not file.is_file():
        raise UsageError("there is no such file", where=str(file))
    return read_json(file)


def _kind(results: Any, path: Path) -> str:
    if isinstance(results, dict) and "measurements" in results:
        return "benchmark"
    if isinstance(results, dict) and {"costs", "evaluation", "models"} <= results.keys():
        return "run"
    raise UsageError(
        "is no results file of a benchmark or a run",
        where=str(path),
        mend="give benchmark/<fingerprint>/results.json or runs/<name>/results.json",
    )


def _only_in_one(model: str, a: Mapping[Any, Any], b: Mapping[Any, Any], found: Found) -> None:
    for name in [*a, *b]:
        if (name in a) != (name in b):
            what = " ".join(name) if isinstance(name, tuple) else name
            what = what or "a model without a name"
            _leave_out(found, model, what, f"only in {'A' if name in a else 'B'}")


def _leave_out(found: Found, model: str, what: str, why: str) -> None:
    found["not_compared"].append({"model": model, "what": what, "why": why})


def _fingerprint(results: Found, kind: str) -> str | None:
    return next((s["fingerprint"] for s in results["stages"] if s["kind"] == kind), None)


def _differences(a: Any, b: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Dotted paths at which two values differ."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in dict.fromkeys([*a, *b]):
            yield from _differences(a.get(key), b.get(key), f"{path}.{key}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (old, new) in enumerate(zip(a, b, strict=True)):
            yield from _differences(old, new, f"{path}.{index}")
    elif a != b:
        yield path, a, b
