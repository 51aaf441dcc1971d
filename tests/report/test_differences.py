"""Comparing two results files: what is divided, what is labelled, and what is left out."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_stages import write_stages

from limbeck.cli import app
from limbeck.errors import UsageError
from limbeck.report.difference_text import describe
from limbeck.report.differences import compare_files
from limbeck.report.write import write_report

NATURAL, FIXED = "natural_length/batch_1", "fixed_length/batch_8"


def one(regime: str, name: str, value: float, unit: str, **more: Any) -> dict[str, Any]:
    place = {"regime": regime, "name": name, "unit": unit, "n": 9}
    return {**place, "value": value, "low": value * 0.9, "high": value * 1.1, **more}


def benchmark() -> dict[str, Any]:
    bare = {"low": None, "high": None}
    return {
        "measurements": [
            one("load", "load_seconds", 2.0, "s", **bare),
            one(NATURAL, "latency_ms", 100.0, "ms"),
            one(NATURAL, "throughput_samples_per_second", 10.0, "samples/s"),
            one(NATURAL, "new_tokens_mean", 12.0, "tokens/sample"),
            one(NATURAL, "peak_memory_mib", 500.0, "MiB", memory_kind="process RSS", **bare),
            one(FIXED, "latency_ms", 400.0, "ms"),
        ],
        "machine": {"cpu": "x", "threads": 2},
        "precision": "float32",
        "runtime": "transformers 5.23.0",
        "parameters": 1000,
        "disk_bytes": 4000,
        "samples": 16,
        "seed": 0,
        "other_busy_cores": 0.1,
        "settings": {"split": "test", "new_tokens": 32, "max_new_tokens": 128, "repeats": 3},
    }


def changed(place: tuple[str, str] | None = None, factor: float = 1.0, **fields: Any) -> Any:
    found = {**copy.deepcopy(benchmark()), **fields}
    for row in found["measurements"]:
        if (row["regime"], row["name"]) == place:
            for key in ("value", "low", "high"):
                row[key] = None if row[key] is None else row[key] * factor
    return found


def compared(tmp_path: Path, a: Any, b: Any) -> dict[str, Any]:
    for name, content in (("a", a), ("b", b)):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "results.json").write_text(json.dumps(content))
    found = compare_files(tmp_path / "a", tmp_path / "b" / "results.json")
    json.dumps(found, allow_nan=False)
    return found


def row_of(found: dict[str, Any], regime: str, name: str) -> dict[str, Any]:
    [row] = [r for r in found["measurements"] if (r["regime"], r["name"]) == (regime, name)]
    return row


def test_a_file_beside_itself_has_no_difference(tmp_path: Path) -> None:
    found = compared(tmp_path, benchmark(), benchmark())
    assert found["conditions"] == found["not_compared"] == []
    assert {row["ratio"] for row in found["measurements"]} == {1}
    assert {row["b_is"] for row in found["measurements"]} == {None}
    assert not any(row["beyond_spread"] for row in found["measurements"])


@pytest.mark.parametrize(
    ("factor", "beyond", "judged"),
    [(1.5, True, "worse"), (1.1, False, "worse"), (0.6, True, "better")],
)
def test_a_change_is_judged_against_the_spread(
    tmp_path: Path, factor: float, beyond: bool, judged: str
) -> None:
    found = compared(tmp_path, benchmark(), changed((NATURAL, "latency_ms"), factor))
    row = row_of(found, NATURAL, "latency_ms")
    assert row["ratio"] == pytest.approx(factor)
    assert (row["beyond_spread"], row["b_is"], row["mixed"]) == (beyond, judged, [])
    assert f"{judged}, beyond the spread" in describe(found) or not beyond


def test_more_throughput_is_better_and_length_is_neither(tmp_path: Path) -> None:
    name = "throughput_samples_per_second"
    found = compared(tmp_path, benchmark(), changed((NATURAL, name), 2))
    assert row_of(found, NATURAL, name)["b_is"] == "better"
    found = compared(tmp_path, benchmark(), changed((NATURAL, "new_tokens_mean"), 2))
    assert row_of(found, NATURAL, "new_tokens_mean")["b_is"] is None


def test_without_a_spread_nothing_is_claimed(tmp_path: Path) -> None:
    found = compared(tmp_path, benchmark(), changed((NATURAL, "peak_memory_mib"), 3))
    assert row_of(found, NATURAL, "peak_memory_mib")["beyond_spread"] is None
    assert "no spread known" in describe(found)


def test_sizes_are_counted_so_any_change_is_one(tmp_path: Path) -> None:
    found = compared(tmp_path, benchmark(), changed(parameters=1001))
    assert row_of(found, "size", "parameters")["beyond_spread"] is True
    assert row_of(found, "size", "disk_bytes")["beyond_spread"] is False


def test_another_machine_is_a_mixed_pair_and_says_in_what(tmp_path: Path) -> None:
    other = changed(machine={"cpu": "x", "threads": 4}, other_busy_cores=1.2)
    found = compared(tmp_path, benchmark(), other)
    assert {"model": "", "what": "machine.threads", "a": 2, "b": 4} in found["conditions"]
    assert row_of(found, NATURAL, "latency_ms")["mixed"] == ["machine", "other_busy_cores"]
    assert row_of(found, "size", "parameters")["mixed"] == []
    assert "mixed: machine" in describe(found)
    assert "machine.threads: 2, 4" in describe(found)


def test_other_lengths_are_not_divided_and_only_where_they_matter(tmp_path: Path) -> None:
    settings = {**benchmark()["settings"], "new_tokens": 64, "repeats": 9}
    found = compared(tmp_path, benchmark(), changed(settings=settings))
    left = {(one["what"], one["why"]) for one in found["not_compared"]}
    assert left == {(f"{FIXED} latency_ms", "new_tokens differs (32 and 64)")}
    assert row_of(found, NATURAL, "latency_ms")["mixed"] == []


def test_other_samples_leave_sizes_and_loading(tmp_path: Path) -> None:
    found = compared(tmp_path, benchmark(), changed(seed=1))
    assert {row["regime"] for row in found["measurements"]} == {"size", "load"}
    assert {one["why"] for one in found["not_compared"]} == {"seed differs (0 and 1)"}


def test_kinds_of_memory_are_never_divided(tmp_path: Path) -> None:
    other = benchmark()
    other["measurements"][4]["memory_kind"] = "CUDA allocated"
    found = compared(tmp_path, benchmark(), other)
    [left] = found["not_compared"]
    assert left["why"] == "memory kind differs (process RSS and CUDA allocated)"


def test_a_served_model_shares_no_regime_with_one_that_ran_here(tmp_path: Path) -> None:
    served = {
        **benchmark(),
        "measurements": [one("served/natural_length/concurrency_1", "latency_ms", 9.0, "ms")],
        "parameters": None,
        "disk_bytes": None,
        "machine": None,
        "client": {"cpu": "x", "threads": 2},
    }
    found = compared(tmp_path, benchmark(), served)
    assert found["measurements"] == []
    assert {one["why"] for one in found["not_compared"]} == {"only in A", "only in B"}
    assert "Nothing in these files can be compared." in describe(found)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("runs")
    inputs = write_stages(root / "stages", samples=64, gallery=0)
    write_report(root / "first", inputs)
    found = json.loads((root / "first" / "results.json").read_text())
    student = next(arm for arm in found["evaluation"]["arms"] if arm["arm"] == "student")
    for key in ("mean", "low", "high"):
        student["scores"]["rouge_l"][key] -= 0.4
    found["evaluation"]["metrics"][0]["signature"] = "another way"
    found["recipe"]["training"] = {"steps": 80}
    del found["costs"]["control"]
    (root / "second").mkdir()
    (root / "second" / "results.json").write_text(json.dumps(found))
    return root / "first", root / "second"


def test_two_runs_are_compared_by_arm_with_their_scores(runs: tuple[Path, Path]) -> None:
    found = compare_files(*runs)
    scores = {(row["model"], row["metric"]): row for row in found["scores"]}
    worse = scores["student", "rouge_l"]
    assert worse["difference"] == pytest.approx(-0.4)
    assert (worse["beyond_spread"], worse["b_is"]) == (True, "worse")
    assert scores["teacher", "rouge_l"]["b_is"] is None
    left = {(one["model"], one["what"]): one["why"] for one in found["not_compared"]}
    assert left["", "control"] == "only in A"
    assert "computed differently" in left["student", "exact_match"]
    assert ("student", "exact_match") not in scores
    assert any(one["what"] == "recipe.training" for one in found["conditions"])
    assert {row["model"] for row in found["measurements"]} == {"teacher", "student", "baseline"}
    text = describe(found)
    assert "student, scores:" in text
    assert "student, natural length, batch 1:" in text


def test_the_command_exits_with_0_whatever_it_finds(runs: tuple[Path, Path]) -> None:
    plain = CliRunner().invoke(app, ["diff", *map(str, runs)])
    assert plain.exit_code == 0
    assert "worse, beyond the spread" in plain.stdout
    asked = CliRunner().invoke(app, ["diff", *map(str, runs), "--json"])
    assert json.loads(asked.stdout)["kind"] == "run"


def test_what_is_no_results_file_is_refused(tmp_path: Path, runs: tuple[Path, Path]) -> None:
    (tmp_path / "a.json").write_text(json.dumps(benchmark()))
    (tmp_path / "other.json").write_text("[1, 2]")
    with pytest.raises(UsageError, match="give two of a kind"):
        compare_files(tmp_path / "a.json", runs[0])
    with pytest.raises(UsageError, match="no results file"):
        compare_files(tmp_path / "a.json", tmp_path / "other.json")
    with pytest.raises(UsageError, match="no such file"):
        compare_files(tmp_path / "a.json", tmp_path / "missing")
