"""The list of runs: every run of a work folder, from its files, with what can be compared."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_stages import write_stages

from limbeck.cli import app
from limbeck.report.runs import read_runs, runs_page, summary_of
from limbeck.report.write import ReportInputs, write_report


def add_run(work: Path, name: str, **options) -> Path:
    """A finished run, as the pipeline publishes it."""
    folder = work / "runs" / name
    inputs = write_stages(work / "stages" / name, **options)
    write_report(folder / "report", ReportInputs(**{**vars(inputs), "name": name}))
    (folder / "results.json").write_bytes((folder / "report" / "results.json").read_bytes())
    (folder / "run.json").write_text(json.dumps({"name": name, "recipe": inputs.recipe}))
    return folder


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    work = tmp_path_factory.mktemp("work")
    add_run(work, "first", samples=12)
    add_run(work, "second", samples=12, seeds=(0,))
    unfinished = work / "runs" / "unfinished"
    unfinished.mkdir()
    (unfinished / "run.json").write_text('{"name": "unfinished", "recipe": {}}')
    torn = work / "runs" / "torn"
    torn.mkdir()
    (torn / "run.json").write_text('{"recipe": {}}')
    (torn / "results.json").write_text('{"evaluation": ')
    return work


def test_every_run_is_listed_with_its_figures_or_with_why_it_has_none(work):
    rows = {run["name"]: summary_of(run) for run in read_runs(work)}
    assert set(rows) == {"first", "second", "unfinished", "torn"}
    results = json.loads((work / "runs" / "first" / "results.json").read_text())
    assert rows["first"]["verdict"] == results["verdict"]["sentence"]
    assert rows["first"]["scores"]["student"]["n"] == 12
    assert (rows["first"]["seeds"], rows["second"]["seeds"]) == ([0, 1], [0])
    assert rows["first"]["latency"]["value"] == pytest.approx(41.5)
    assert rows["first"]["memory"]["memory_kind"] == "process RSS"
    assert rows["unfinished"]["problem"] == "no report yet"
    assert rows["torn"]["problem"].startswith("cannot be read")
    assert rows["torn"]["report"] is None


def test_a_number_changed_in_a_runs_results_changes_the_list(tmp_path):
    folder = add_run(tmp_path, "one", samples=8)
    path = folder / "results.json"
    results = json.loads(path.read_text())
    student = next(arm for arm in results["evaluation"]["arms"] if arm["arm"] == "student")
    student["scores"]["exact_match"]["mean"] = 0.4321
    path.write_text(json.dumps(results))
    page = runs_page(read_runs(tmp_path), tmp_path / "runs.html", tmp_path)
    assert 'data-key="0.4321"' in page
    assert ">0.432<" in page
    printed = CliRunner().invoke(app, ["runs", str(tmp_path)]).stdout
    assert "exact match 0.432 [" in printed


def test_links_lead_to_the_reports_from_wherever_the_page_is(work, tmp_path):
    for page in (work / "runs" / "index.html", tmp_path / "elsewhere" / "runs.html"):
        result = CliRunner().invoke(app, ["runs", str(work), "--html", str(page), "--json"])
        assert result.exit_code == 0, result.output
        assert len(json.loads(result.stdout)) == 4
        links = re.findall(r'href="([^"#]+)"', page.read_text())
        assert len(links) == 4
        for link in links:
            assert Path(os.path.normpath(page.parent / link)).is_file(), link


def test_only_models_that_were_measured_alike_are_compared(work, tmp_path):
    page = runs_page(read_runs(work), tmp_path / "runs.html", work)
    assert page.count('id="table-pareto-table-1"') == 1
    first = page.split('id="table-pareto-table-1"')[1].split("</table>")[0]
    assert "first" in first
    assert "second" in first  # the synthetic runs have the same data, metric and machine
    assert "beaten" in first
    other = add_run(tmp_path, "other", samples=12)
    changed = json.loads((other / "results.json").read_text())
    changed["evaluation"]["n"] = 13
    add_run(tmp_path, "more", samples=12)
    (other / "results.json").write_text(json.dumps(changed))
    apart = runs_page(read_runs(tmp_path), tmp_path / "runs.html", tmp_path)
    assert "(1 of 2)" in apart


def test_a_folder_without_runs_is_an_error_that_says_so(tmp_path):
    result = CliRunner().invoke(app, ["runs", str(tmp_path)])
    assert result.exit_code == 2
    assert "there are no runs here" in result.stderr


def test_hostile_verdicts_are_text(tmp_path):
    folder = add_run(tmp_path, "one", samples=8)
    results = json.loads((folder / "results.json").read_text())
    results["verdict"]["sentence"] = "<script>alert(1)</script>"
    (folder / "results.json").write_text(json.dumps(results))
    page = runs_page(read_runs(tmp_path), tmp_path / "runs.html", tmp_path)
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page
