"""Renders the pages that come from code and from results, so that no number is typed in.

    python docs/render.py                             write the pages (make docs)
    python docs/render.py --check                     fail when a page is not what it should be
    python docs/render.py --adopt work/runs/demo/results.json     keep a run's results, then write
    python docs/render.py --adopt-benchmarks work/benchmarks      keep the benchmarks', then write

`docs/results/demo.json` is what `--adopt` kept of a run of `recipes/demo.yaml`, and
`docs/results/benchmarks/` what the scripts in `benchmarks/` wrote.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
import performance_page
import planning_page

from limbeck.recipe.reference import reference_page
from limbeck.report import cost as costs
from limbeck.report.format import count, data_size, decimal, interval, parameters, quantity, times

ROOT = Path(__file__).resolve().parents[1]
BENCHMARKS = ROOT / "docs" / "results" / "benchmarks"
RESULTS = ROOT / "docs" / "results" / "demo.json"
KEPT = (
    *("name", "headline", "verdict", "evaluation", "costs", "gains", "warnings", "evaluated"),
    "versions",
)
BEGIN = "<!-- demo results: rendered by `make docs`, do not edit -->"
END = "<!-- end of demo results -->"
ARMS = ("teacher", "student", "control", "baseline")


def pages(root: Path = ROOT, results: Path = RESULTS) -> dict[Path, str]:
    """Every rendered page: where it is, and what it should hold."""
    kept = json.loads(results.read_text(encoding="utf-8")) if results.is_file() else None
    readme = root / "README.md"
    rendered = {
        root / "docs" / "recipe.md": reference_page() + "\n",
        readme: with_block(readme.read_text(encoding="utf-8"), readme_block(kept)),
    }
    if kept is not None:
        rendered[root / "docs" / "demo-results.md"] = results_page(kept)
    if (speed := performance_page.performance_page(BENCHMARKS)) is not None:
        rendered[root / "docs" / "performance.md"] = speed
    page = root / "docs" / "planning.md"
    if page.is_file():
        rendered[page] = planning_page.planning_page(page, BENCHMARKS)
    return rendered


def with_block(text: str, block: str) -> str:
    """The text with what stands between the two marks replaced."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"README.md lacks the marks {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{block}\n{END}{after}"


def readme_block(results: dict[str, Any] | None) -> str:
    """What the README says of the demo."""
    if results is None:
        return "`make demo` measures it here; no results are kept in this repository yet."
    sentence = results["verdict"]["sentence"]
    link = "More, and how it was measured: [what the demo measured](docs/demo-results.md)."
    return "\n".join([f"> {sentence}", "", *score_table(results, 3), "", link])


def results_page(results: dict[str, Any]) -> str:
    """The page about the demo's results."""
    evaluation = results["evaluation"]
    lines = [
        "# What the demo measured",
        "",
        "Rendered by `make docs` from `docs/results/demo.json`, which a run of `recipes/demo.yaml`",
        f"wrote ({results.get('evaluated') or 'time unknown'}). Another machine gives other times;",
        "the report of your own run has plots, curves and a gallery besides.",
        "",
        f"**{results['verdict']['sentence']}**",
        "",
        *(_claim(claim) for claim in results["verdict"]["claims"]),
        "",
        "## Scores",
        "",
        f"{count(evaluation['n'])} samples; mean over seeds with its",
        f"{evaluation['confidence']:.0%} bootstrap interval over samples, ± the standard deviation",
        "between seeds.",
        "",
        *score_table(results, len(evaluation["metrics"])),
        "",
        "## Costs",
        "",
        *cost_table(results),
    ]
    if results["warnings"]:
        lines += ["", "## Before you trust these numbers", ""]
        lines += [f"- {warning}" for warning in results["warnings"]]
    versions = ", ".join(f"{name} {text}" for name, text in sorted(results["versions"].items()))
    return "\n".join([*lines, "", "## Versions", "", versions, ""])


def _claim(claim: dict[str, Any]) -> str:
    why = f" ({claim['why']})" if claim.get("why") else ""
    return f"- {claim['statement']}{why}"


def score_table(results: dict[str, Any], columns: int) -> list[str]:
    """A row an arm, a column a metric, the headline metric first."""
    evaluation = results["evaluation"]
    metrics = sorted(evaluation["metrics"], key=lambda m: m["kind"] != results["headline"])[
        :columns
    ]
    rows = ["| model | seeds | " + " | ".join(m["name"] for m in metrics) + " |"]
    rows.append("|---|---|" + "---|" * len(metrics))
    for arm in _in_order(evaluation["arms"]):
        cells = [_score(arm["scores"].get(metric["kind"])) for metric in metrics]
        rows.append(f"| {arm['arm']} | {len(arm['seeds'])} | " + " | ".join(cells) + " |")
    return rows


def cost_table(results: dict[str, Any]) -> list[str]:
    """A row an arm: what was benchmarked, and how it compares with the teacher."""
    rows = ["| model | parameters | disk | latency, p50 | peak memory | faster than the teacher |"]
    rows.append("|---|---|---|---|---|---|")
    for arm in sorted(results["costs"], key=_place):
        cost = results["costs"][arm]
        gained = results["gains"].get(arm, {}).get("latency")
        cells = (
            parameters(cost["parameters"]),
            data_size(cost["disk_bytes"]),
            _measured(costs.latency(cost)),
            _measured(costs.peak_memory(cost)),
            times(gained["gain"]) if gained else "",
        )
        rows.append(f"| {arm} | " + " | ".join(cells) + " |")
    return rows


def _score(score: dict[str, Any] | None) -> str:
    if score is None:
        return "n/a"
    deviation = "" if score["sd"] is None else f" ± {decimal(score['sd'])}"
    return f"{decimal(score['mean'])}{deviation} {interval(score['low'], score['high'])}"


def _measured(one: dict[str, Any] | None) -> str:
    if one is None:
        return "n/a"
    kind = one.get("memory_kind")
    return quantity(one["value"], one["unit"]) + (f" ({kind})" if kind else "")


def _in_order(arms: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(arms, key=lambda arm: _place(arm["arm"]))


def _place(arm: str) -> tuple[int, str]:
    return (ARMS.index(arm) if arm in ARMS else len(ARMS), arm)


def adopt(source: Path, results: Path = RESULTS) -> None:
    """Keep of a run's results what the pages say."""
    content = json.loads(source.read_text(encoding="utf-8"))
    kept = {key: content[key] for key in KEPT}
    results.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(kept, indent=1, sort_keys=True, ensure_ascii=False)
    results.write_text(text + "\n", encoding="utf-8")


def main() -> None:
    """Write the pages, or say which of them are not what they should be."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail on a difference")
    parser.add_argument("--adopt", type=Path, metavar="RESULTS", help="a run's results.json")
    parser.add_argument("--adopt-benchmarks", type=Path, metavar="FOLDER", help="work/benchmarks")
    parser.add_argument("--remark", help="kept with the benchmarks that are adopted")
    arguments = parser.parse_args()
    if arguments.adopt:
        adopt(arguments.adopt)
    if arguments.adopt_benchmarks:
        performance_page.adopt(arguments.adopt_benchmarks, BENCHMARKS, arguments.remark)
        planning_page.adopt(arguments.adopt_benchmarks, BENCHMARKS, arguments.remark)
    drifted = [
        (path, text)
        for path, text in pages().items()
        if not path.is_file() or path.read_text(encoding="utf-8") != text
    ]
    for path, text in drifted:
        print(("differs: " if arguments.check else "wrote ") + str(path.relative_to(ROOT)))
        if not arguments.check:
            path.write_text(text, encoding="utf-8")
    if drifted and arguments.check:
        sys.exit("run `make docs`")


if __name__ == "__main__":
    main()
