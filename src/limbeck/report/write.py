"""The report stage: `index.html`, `README.md` and `results.json` from finished stages' files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from limbeck.report.gallery import gallery_of
from limbeck.report.pages import html_page, markdown_page
from limbeck.report.results import ReportInputs, ReportModel, assemble
from limbeck.store import write_atomic

__all__ = ["ReportInputs", "ReportModel", "write_report"]


def write_report(output: Path, inputs: ReportInputs) -> dict[str, Any]:
    """Write the report into `output` and return its verdict and sizes.

    The same inputs give the same bytes.

    Raises:
        DataError: a stage's file is missing, broken, or does not belong to the others.
    """
    results = assemble(inputs)
    page = html_page(results, gallery := gallery_of(inputs, results))
    output.mkdir(parents=True, exist_ok=True)
    write_atomic(output / "results.json", _json(results))
    write_atomic(output / "README.md", markdown_page(results, gallery))
    write_atomic(output / "index.html", page)
    return {
        "verdict": results["verdict"]["sentence"],
        "headline": results["headline"],
        "outcomes": {c["key"]: c["outcome"] for c in results["verdict"]["claims"]},
        "warnings": len(results["warnings"]),
        "gallery_samples": len(gallery["samples"]),
        "html_bytes": len(page.encode()),
    }


def _json(value: Any) -> str:
    return json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
