"""The part of docs/planning.md that `benchmarks/plan_error.py` wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

BEGIN = "<!-- measured error: rendered by `make docs`, do not edit -->"
END = "<!-- end of measured error -->"
NAME = "plan.json"


def error_block(kept: Path) -> str:
    """What the plan's error was, or that none is kept."""
    path = kept / NAME
    if not path.is_file():
        return "`python benchmarks/plan_error.py` measures it; no results are kept here yet."
    found = json.loads(path.read_text(encoding="utf-8"))
    cases: dict[str, Any] = found["cases"]
    remark = [f"**{found['remark']}**", ""] if "remark" in found else []
    lines = [
        *remark,
        f"{len(cases)} stages of small models, torch {found['torch']} on a CPU, memory above that",
        "of the libraries. Planned against what tensors held (the allocator set to give",
        f"back what is freed): median error {found['median_error']:.0%}, largest"
        f" {found['largest_error']:.0%},",
        f"furthest below {found['most_below']:+.0%}. Left alone, the allocator's gaps made peaks",
        f"{found['gaps_median']:.2f} times as high (median; at most {found['gaps_largest']:.2f}).",
        "",
        "| case | stage | planned | measured | error | with gaps |",
        "|---|---|---|---|---|---|",
    ]
    for name, one in cases.items():
        exact, gaps = (one["measured"][k]["bytes"] for k in ("gives back", "as it is"))
        planned = one["planned"]["bytes"]
        cells = (
            name.replace("_", " "),
            one["stage"],
            _mib(planned),
            _mib(exact),
            f"{planned / exact - 1:+.0%}",
            _mib(gaps),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mib(number: float) -> str:
    return f"{number / 2**20:,.0f} MiB"


def adopt(folder: Path, kept: Path, remark: str | None = None) -> None:
    """Keep the file that the script wrote, with a remark where there is one."""
    source = folder / NAME
    if source.is_file():
        content = json.loads(source.read_text(encoding="utf-8"))
        content |= {"remark": remark} if remark else {}
        (kept / NAME).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def planning_page(page: Path, kept: Path) -> str:
    """The page with its block rendered anew."""
    before, begin, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{page} lacks the marks {BEGIN!r} and {END!r}")
    return f"{before}{BEGIN}\n{error_block(kept)}\n{END}{after}"
