from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_stages import write_stages

from limbeck.report import measured_tables
from limbeck.report.cost import gain
from limbeck.report.cost_tables import benchmark_tables, machines_table
from limbeck.report.table import Table
from limbeck.report.write import ReportInputs, write_report


def one(regime: str, name: str, value: float, unit: str, **more: Any) -> dict[str, Any]:
    bounds = {"low": value * 0.9, "high": value * 1.1, "spread": "p5-p95"}
    return {"regime": regime, "name": name, "value": value, "unit": unit, "n": 6, **bounds, **more}


MORE = [
    one("phases/batch_1", "pictures_ms", 11.0, "ms"),
    one("phases/batch_1", "processor_ms", 12.0, "ms"),
    one("phases/batch_1", "input_ms", 1.5, "ms"),
    one("phases/batch_1", "vision_ms", 34.0, "ms"),
    one("phases/batch_1", "prefill_ms", 56.0, "ms"),
    one("cold_start", "import_seconds", 4.0, "s", low=None, high=None),
    one("cold_start", "load_seconds", 9.0, "s", low=None, high=None),
    one("cold_start", "latency_ms", 777.0, "ms", low=None, high=None),
    one("fixed_length/batch_1", "cpu_joules_per_sample", 3.25, "J/sample", covers="1 CPU package"),
    one("fixed_length/batch_1", "cpu_joules_per_token", 0.1, "J/token", covers="1 CPU package"),
]
SERVED = {
    "measurements": [
        one("served/natural_length/concurrency_1", "time_to_first_token_ms", 88.0, "ms"),
        one("served/natural_length/concurrency_1", "latency_ms", 333.0, "ms"),
        one("served/fixed_length/concurrency_8", "inter_token_ms", 7.7, "ms"),
    ],
    "served": {
        "model": "big",
        "address": "http://host/v1",
        "network": "included",
        "notes": ["a note about caches"],
    },
}


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ReportInputs]:
    root = tmp_path_factory.mktemp("measured")
    inputs = write_stages(root, samples=32, seeds=(0,), gallery=0)
    for model in inputs.models:
        assert model.benchmark is not None
        path = model.benchmark / "results.json"
        found = json.loads(path.read_text())
        found["measurements"] += MORE if model.arm == "student" else []
        found["page_cache"] = {"state": "the model's files dropped from it (98% were in it)"}
        found["energy"] = {"covers": [], "absent": ["CPU: for root only"]}
        found["without_phases"] = "no vision tower was found" if model.arm == "teacher" else None
        path.write_text(json.dumps(found))
    (root / "served").mkdir()
    (root / "served" / "results.json").write_text(json.dumps(SERVED))
    inputs = replace(inputs, served={"big one": root / "served"})
    write_report(root / "report", inputs)
    return root / "report", inputs


def results_of(reported: tuple[Path, ReportInputs]) -> dict[str, Any]:
    return json.loads((reported[0] / "results.json").read_text())


def texts(table: Table) -> list[list[str]]:
    return [[cell.text for cell in row] for row in table.rows]


def test_the_phases_stand_in_order_beside_what_a_further_token_takes(reported) -> None:
    table = measured_tables.phases_table(results_of(reported))
    assert texts(table) == [
        ["student", "11.0 ms", "12.0 ms", "1.50 ms", "34.0 ms", "56.0 ms", "610 tokens/s"]
    ]
    assert table.rows[0][4].detail == "30.6 to 37.4 ms"
    assert "no vision tower was found" in table.note


def test_the_first_start_stands_beside_a_later_one_and_says_what_cold_was(reported) -> None:
    table = measured_tables.starts_table(results_of(reported))
    assert texts(table) == [["student", "4.0 s", "9.0 s", "410 ms", "777 ms", "41.5 ms"]]
    assert "dropped from it (98% were in it)" in table.note


def test_energy_says_what_it_covers_and_its_absence_why(reported) -> None:
    results = results_of(reported)
    table = measured_tables.energy_table(results)
    assert texts(table) == [
        ["student", "fixed length, batch 1", "cpu", "3.25 J/sample", "0.100 J/token"]
    ]
    assert "cpu: 1 CPU package." in table.note
    assert "No energy of: CPU: for root only." in machines_table(results).note


def test_joules_of_unlike_counters_are_never_divided() -> None:
    a = one("fixed_length/batch_1", "cpu_joules_per_token", 2.0, "J/token", covers="1 CPU package")
    assert gain(a, {**a, "value": 1.0})["gain"] == 2
    assert gain(a, {**a, "covers": "2 CPU packages"}) is None


def test_served_models_stand_by_themselves_and_in_no_comparison(reported) -> None:
    results = results_of(reported)
    table = measured_tables.served_table(results)
    assert [row[0].text for row in table.rows] == ["big one", "big one"]
    assert table.rows[0][1].text == "88.0 ms"
    assert table.rows[1][2].text == "7.70 ms"
    assert "network included; a note about caches" in table.note
    assert "big one" not in results["costs"]
    assert "333" not in json.dumps([results["costs"], results["gains"], results["verdict"]])


def test_every_table_is_on_both_pages_and_no_regime_stands_twice(reported) -> None:
    folder, _ = reported
    page, markdown = ((folder / name).read_text() for name in ("index.html", "README.md"))
    for caption in ("Where the time goes", "First and later starts", "Energy", "Served models"):
        assert caption in page
        assert caption in markdown
    captions = [table.caption for table in benchmark_tables(results_of(reported))]
    assert not any("phases" in caption or "cold" in caption for caption in captions)


def test_results_of_earlier_versions_have_none_of_it(tmp_path: Path) -> None:
    inputs = write_stages(tmp_path, samples=16, seeds=(0,), gallery=0)
    write_report(tmp_path / "report", inputs)
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    assert measured_tables.measured_tables(results) == []
    assert machines_table(results).note == ""
