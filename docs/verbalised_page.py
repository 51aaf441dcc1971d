"""The parts of docs/verbalised.md that runs wrote: tables, and what layers said."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from limbeck.report.format import count, decimal, interval, percent
from limbeck.report.verdict import difference, outcome

RUNS = ("verbalised", "inner-states", "verbalised-ablation")
KEPT = ("name", "headline", "verdict", "evaluated", "versions", "verbalisers", "warnings")
SAID = "verbalise.txt"
BEGIN = "<!-- {}: rendered by `make docs`, do not edit -->"
END = "<!-- end of {} -->"
OUTCOMES = {"better": "better", "worse": "worse", "tie": "no difference that we can tell"}

PUBLISHED = {
    "random": ("random", "77.0 / 50.0 / 62.0 / 52.0"),
    "uniform": ("uniform", "79.5 / 51.9 / 66.5 / 55.3"),
    "bottom1": ("bottom-1", "not stated"),
    "bottom3": ("bottom-3", "not stated"),
    "multinomial": ("multinomial", "82.0 / 54.5 / 68.5 / 58.5"),
    "with_range": ("+ search range", "83.5 / 55.5 / 69.8 / 60.0"),
    "with_order": ("+ order", "86.0 / 59.2 / 75.2 / 68.5"),
    "student": ("+ adaptive temperature: the whole method", "86.3 / 59.7 / 75.8 / 69.3"),
    "cross_entropy": ("cross-entropy in place of KL", "worse than KL"),
    "without_third_stage": ("without the third stage", "82.1, one figure"),
}
"""Of a 7B student on MMB / BLINK / MM-Vet / MMMU (Lee et al. 2024, arXiv 2412.01822)."""


def adopt(name: str, source: Path, kept: Path) -> None:
    """Keep of a run's results what the page shows."""
    content = json.loads(source.read_text(encoding="utf-8"))
    if content.get("name") != name or name not in RUNS:
        raise SystemExit(f"{source}: a run of {content.get('name')!r}; known: {', '.join(RUNS)}")
    if "verbalisers" not in content:
        raise SystemExit(f"{source}: written by an earlier version; run it again")
    evaluation = content["evaluation"]
    thin = {key: content[key] for key in KEPT}
    thin["seeds"] = content["recipe"]["seeds"]
    thin["evaluation"] = {key: evaluation[key] for key in ("n", "confidence", "metrics", "arms")}
    thin["evaluation"]["differences"] = [
        row for row in evaluation["differences"] if row["metric"] == content["headline"]
    ]
    if content.get("ablation"):
        wanted = ("name", "arm", "base", "control", "scores", "difference", "control_difference")
        found = content["ablation"]
        points = [{key: point[key] for key in wanted} for point in found["points"]]
        thin["ablation"] = {"points": points}
        thin["ablation"] |= {key: found[key] for key in ("sentences", "warnings")}
    thin["matches"] = {
        model: facts["matches_over_time"]
        for model, facts in content["training"].items()
        if facts.get("matches_over_time")
    }
    kept.mkdir(parents=True, exist_ok=True)
    text = json.dumps(thin, indent=1, sort_keys=True, ensure_ascii=False)
    (kept / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def verbalised_page(page: Path, kept: Path) -> str:
    """The page with its blocks rendered anew."""
    text = page.read_text(encoding="utf-8")
    runs = {name: _read(kept / f"{name}.json") for name in RUNS}
    blocks = {
        "what layers said": said_block(kept / SAID),
        "verbalisers": layers_block(runs),
        "matches": matches_block(runs),
        "the recipe's results": _or_absent("verbalised", runs, arms_block),
        "parts of the method": _or_absent("verbalised-ablation", runs, parts_block),
        "losses side by side": _or_absent("inner-states", runs, points_block),
    }
    for name, block in blocks.items():
        before, begin, rest = text.partition(BEGIN.format(name))
        _, end, after = rest.partition(END.format(name))
        if not (begin and end):
            raise SystemExit(f"{page} lacks the marks {BEGIN.format(name)!r} and its end")
        text = f"{before}{begin}\n{block}\n{end}{after}"
    return text


def said_block(path: Path) -> str:
    """What `limbeck verbalise` printed, without its lines on single tokens."""
    if not path.is_file():
        return "No output is kept in this repository yet."
    lines = path.read_text(encoding="utf-8").rstrip().splitlines()
    shown = [line for line in lines if not line.lstrip().startswith("begins with")]
    return "\n".join(["```", *(line.replace("<|im_end|>", "") for line in shown), "```"])


def layers_block(runs: Mapping[str, Any]) -> str:
    """By how much each verbaliser is better than the logit lens on the same layer."""
    found = [run for run in runs.values() if run and run["verbalisers"]]
    if not found:
        return "No run with verbalisers is kept in this repository yet."
    rows, differs = [], 0
    for run in found:
        for model, facts in run["verbalisers"].items():
            for number, by in enumerate(facts["lowered_by"]):
                differs += by["low"] > 0
                cells = (
                    run["name"],
                    model,
                    str(facts["layers"][number] + 1),
                    decimal(facts["logit_lens_losses"][number]),
                    decimal(facts["losses"][number]),
                    f"{decimal(by['value'])} {interval(by['low'], by['high'])}",
                    decimal(facts["own_loss"]),
                    f"{count(facts['held_out_tokens'])} / {facts['held_out_samples']}",
                )
                rows.append(cells)
    heads = (
        *("run", "verbalisers of", "layer", "logit lens", "verbaliser", "lower by"),
        *("the model itself", "tokens / samples"),
    )
    sentence = (
        f"The verbaliser is better than the logit lens, interval above 0, in {differs} of"
        f" {len(rows)} layers."
    )
    return "\n".join([sentence, "", *_table(heads, rows)])


def matches_block(runs: Mapping[str, Any]) -> str:
    """One model's matches, a row a quarter of its training and a layer of the student."""
    model, quarters, run = next(
        (
            (model, quarters, name)
            for name in RUNS
            for model, quarters in ((runs[name] or {}).get("matches") or {}).items()
        ),
        ("", [], ""),
    )
    if not quarters:
        return "No run with matches is kept in this repository yet."
    layers = len(quarters[0]["counts"][0])
    heads = ("to step", "student's layer", *(f"teacher's {n + 1}" for n in range(layers)))
    rows = [
        (
            str(quarter["until_step"]),
            str(number + 1),
            *(percent(one / max(1.0, sum(own)), 0) for one in own),
        )
        for quarter in quarters
        for number, own in enumerate(quarter["counts"])
    ]
    return "\n".join([f"`{model}` of the run `{run}`:", "", *_table(heads, rows)])


def arms_block(run: Mapping[str, Any]) -> str:
    """Each arm of a recipe, and its paired difference to the student."""
    evaluation, metric = run["evaluation"], _metric(run)
    order = {"teacher": 0, "student": 1}
    rows = []
    for arm in sorted(evaluation["arms"], key=lambda one: order.get(one["arm"], 2)):
        score = arm["scores"][metric["kind"]]
        against = [""] * 2
        if arm["arm"] != "student":
            gap = difference(evaluation, metric["kind"], arm["arm"], "student")
            judged, why = outcome(gap, metric["higher_is_better"])
            against = [_gap(gap), f"{OUTCOMES.get(judged, judged)}: {why}"]
        rows.append((arm["arm"], _score(score), _basis(score), *against))
    heads = ("arm", metric["name"], "samples × seeds", "arm − student", "")
    verdict = f"**{run['verdict']['sentence']}**"
    return "\n".join([_when(run), "", verdict, "", *_table(heads, rows)])


def points_block(run: Mapping[str, Any]) -> str:
    """Each point of an ablation against the base, and against its plain training."""
    metric = _metric(run)
    rows = [
        (
            "student (base)" if point["base"] else point["name"],
            *_own(point, metric),
            *(_judged(point["control_difference"], metric)),
        )
        for point in run["ablation"]["points"]
    ]
    heads = (
        *("point", metric["name"], "samples × seeds", "point − base", ""),
        *("point − plain cross-entropy", ""),
    )
    return "\n".join([_when(run), "", *_sentences(run), "", *_table(heads, rows)])


def parts_block(run: Mapping[str, Any]) -> str:
    """The ablation of the method beside the published one, in the published order."""
    metric = _metric(run)
    found = {point["name"]: point for point in run["ablation"]["points"]}
    names = [*PUBLISHED, *(name for name in found if name not in PUBLISHED)]
    rows = []
    for name in names:
        title, theirs = PUBLISHED.get(name, (name, "not stated"))
        own = _own(found[name], metric) if name in found else ("not run", "", "", "")
        rows.append((title, theirs, *own))
    heads = (
        *("matching", "published, 7B: MMB / BLINK / MM-Vet / MMMU", f"ours: {metric['name']}"),
        *("samples × seeds", "point − whole method", ""),
    )
    return "\n".join([_when(run), "", *_sentences(run), "", *_table(heads, rows)])


def _sentences(run: Mapping[str, Any]) -> list[str]:
    found = run["ablation"]
    warnings = [f"Mind: {text}." for text in found["warnings"]]
    return [f"- {sentence}" for sentence in (*found["sentences"], *warnings)]


def _own(point: Mapping[str, Any], metric: Mapping[str, Any]) -> tuple[str, str, str, str]:
    score = point["scores"][metric["kind"]]
    return _score(score), _basis(score), *_judged(point["difference"], metric)


def _judged(rows: Mapping[str, Any] | None, metric: Mapping[str, Any]) -> tuple[str, str]:
    found = (rows or {}).get(metric["kind"])
    return (_gap(found), f"{OUTCOMES[found['outcome']]}: {found['why']}") if found else ("", "")


def _score(score: Mapping[str, Any]) -> str:
    deviation = "" if score["sd"] is None else f" ± {decimal(score['sd'])}"
    return f"{decimal(score['mean'])}{deviation} {interval(score['low'], score['high'])}"


def _basis(score: Mapping[str, Any]) -> str:
    return f"{count(score['n'])} × {len(score['per_seed'])}"


def _gap(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not measured"
    mean, low, high = (decimal(found[key], signed=True) for key in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def _metric(run: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(m for m in run["evaluation"]["metrics"] if m["kind"] == run["headline"])


def _when(run: Mapping[str, Any]) -> str:
    seeds = ", ".join(map(str, run["seeds"]))
    return (
        f"`limbeck run recipes/{run['name']}.yaml`, evaluated {run['evaluated']},"
        f" {count(run['evaluation']['n'])} samples, seeds {seeds}. Mean over seeds ± their standard"
        f" deviation; brackets: {percent(run['evaluation']['confidence'], 0)} intervals over"
        " samples, of differences paired by sample and seed."
    )


def _or_absent(name: str, runs: Mapping[str, Any], block: Any) -> str:
    run = runs[name]
    if run is None:
        return (
            f"`limbeck run recipes/{name}.yaml` measures it; no results are kept in this"
            " repository yet."
        )
    return str(block(run))


def _read(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
