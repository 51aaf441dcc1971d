"""What the repository promises: pages that match the code, recipes that load, a readable tree."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import tomllib
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.requirements import Requirement

import limbeck
from limbeck.cli import RECIPES, app
from limbeck.evaluate.scoring import ModelPredictions, score_models
from limbeck.metrics.exact_match import ExactMatch
from limbeck.recipe import arms_of, load_recipe
from limbeck.records import Prediction, Sample
from limbeck.report.cost import arm_cost, gains

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md")
]
PAGES += sorted((ROOT / "docs").glob("*.md"))
SHIPPED = sorted(set(RECIPES.glob("*.yaml")) - set(RECIPES.glob("encoders*.yaml")))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def render() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_render", ROOT / "docs" / "render.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def results() -> dict[str, Any]:
    """Results of a run as the report stage assembles them, of two arms on four samples."""
    samples = [Sample(str(i), "test", (), references=("yes",)) for i in range(4)]
    models = [
        ModelPredictions(
            f"{arm}-seed{seed}",
            arm,
            seed,
            [Prediction(str(i), arm, "yes" if i < right else "no", 1) for i in range(4)],
        )
        for arm, seed, right in (
            *(("student", 0, 3), ("student", 1, 2)),
            *(("baseline", 0, 0), ("baseline", 1, 0)),
        )
    ]
    evaluation, _ = score_models(models, samples, [ExactMatch()], bootstrap=100)
    costs = {arm: arm_cost([_benchmark(ms)]) for arm, ms in (("teacher", 80.0), ("student", 20.0))}
    return {
        "name": "demo",
        "headline": "exact_match",
        "verdict": {"sentence": "The student won.", "claims": [{"statement": "It is faster."}]},
        "evaluation": evaluation,
        "costs": costs,
        "gains": {"student": gains(costs["teacher"], costs["student"])},
        "warnings": ["Mind the gap."],
        "evaluated": "2026-01-01T00:00:00Z",
        "versions": {"torch": "2.14.1"},
        "training": {"curve": list(range(1000))},
    }


def _benchmark(latency_ms: float) -> dict[str, Any]:
    measurement = {
        "regime": "natural_length/batch_1",
        "name": "latency_ms",
        "value": latency_ms,
        "unit": "ms",
        "n": 8,
        "low": latency_ms,
        "high": latency_ms,
    }
    sizes = {"parameters": 1_570_000, "disk_bytes": 1 << 20}
    return {"measurements": [measurement], **sizes}


# Pages


def test_rendered_pages_are_what_code_and_results_say(render: ModuleType):
    for path, text in render.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} drifted: run `make docs`"


def test_a_number_changed_by_hand_is_noticed(
    render: ModuleType, results: dict[str, Any], tmp_path: Path
):
    kept = tmp_path / "demo.json"
    source = tmp_path / "results.json"
    source.write_text(json.dumps(results))
    render.adopt(source, kept)
    (tmp_path / "docs").mkdir()
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{render.BEGIN}\n{render.END}\nafter\n")
    readme.write_text(render.pages(tmp_path, kept)[readme])
    assert render.pages(tmp_path, kept)[readme] == readme.read_text()
    assert readme.read_text().startswith("before\n")
    assert readme.read_text().endswith("\nafter\n")
    readme.write_text(readme.read_text().replace("0.625", "0.925"))
    assert render.pages(tmp_path, kept)[readme] != readme.read_text()


def test_the_pages_show_the_results_and_nothing_else(
    render: ModuleType, results: dict[str, Any], tmp_path: Path
):
    source, kept = tmp_path / "results.json", tmp_path / "demo.json"
    source.write_text(json.dumps(results))
    render.adopt(source, kept)
    assert "training" not in json.loads(kept.read_text())
    page = render.results_page(json.loads(kept.read_text()))
    for text in (
        *("The student won.", "It is faster.", "Mind the gap.", "torch 2.14.1", "4 samples"),
        *("| student | 2 | 0.625 ± 0.177 [", "| baseline | 2 | 0.000 ± 0.000 [0.000, 0.000] |"),
        *("1.57 M", "1.00 MiB", "20.0 ms", "4.0×"),
    ):
        assert text in page, text
    block = render.readme_block(json.loads(kept.read_text()))
    assert "The student won." in block
    assert "0.625" in block


def test_without_results_the_readme_claims_none(render: ModuleType):
    assert not re.search(r"\d", render.readme_block(None))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page: Path):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" in target or target == "demo-results.md":
            continue
        assert (page.parent / target).exists(), target


def test_the_page_of_results_is_there_when_results_are():
    kept = (ROOT / "docs" / "results" / "demo.json").is_file()
    assert (ROOT / "docs" / "demo-results.md").is_file() == kept


def test_commands_in_the_pages_exist():
    known = {command.name for command in app.registered_commands if command.name}
    known |= {c.callback.__name__ for c in app.registered_commands if c.callback and not c.name}
    known |= {group.name for group in app.registered_groups if group.name}
    for page in PAGES:
        blocks = re.findall(r"```\w*\n(.*?)```|`(limbeck [^`]+)`", page.read_text(), re.DOTALL)
        lines = "\n".join("\n".join(block) for block in blocks)
        used = set(re.findall(r"^limbeck ([a-z]+)", lines, re.MULTILINE))
        assert used <= known, page.name


def test_targets_of_make_in_the_pages_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert {"demo", "test", "test-all", "check", "docs", "bench", "clean"} <= targets
    for page in PAGES:
        used = set(re.findall(r"(?:^|`)make ([a-z-]+)", page.read_text(), re.MULTILINE))
        assert used <= targets, page.name


def test_the_architecture_fits_on_two_pages():
    assert len((ROOT / "ARCHITECTURE.md").read_text().split()) <= 1100


# Recipes


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_recipe_loads_and_says_its_command_and_what_to_expect(path: Path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert {"teacher", "student", "control"} <= {arm.name for arm in arms_of(recipe)}
    head = path.read_text(encoding="utf-8").partition("\nname:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"limbeck run recipes/{path.name}" in head
    assert "xpect" in head


def test_the_recipes_at_the_top_are_those_of_the_package():
    assert (ROOT / "recipes").resolve() == RECIPES.resolve()


def test_what_the_package_needs_at_run_time_is_packaged():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["limbeck"]
    package = ROOT / "src" / "limbeck"
    for path in package.rglob("*"):
        name = path.relative_to(package).as_posix()
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            assert any(fnmatch(name, pattern) for pattern in patterns), name


# Tree and tools


def test_every_source_file_can_be_seen_at_a_glance():
    files = sorted((ROOT / "src" / "limbeck").rglob("*.py"))
    lengths = {str(path.relative_to(ROOT)): path.read_text().count("\n") for path in files}
    assert {name: lines for name, lines in lengths.items() if lines > 400} == {}
    vague = {"utils", "helpers", "common", "misc", "manager", "handler"}
    assert [path for path in files if path.stem in vague] == []


def test_every_test_file_mirrors_the_tree():
    families = {"conformance", "faults", "golden", "browser"}
    packages = {p.name for p in (ROOT / "src" / "limbeck").iterdir() if p.is_dir()}
    folders = {p.name for p in (ROOT / "tests").iterdir() if p.is_dir() and p.name[0] not in "._"}
    assert folders <= packages | families


def test_no_two_test_files_have_one_name():
    """Files without a package around them are imported by their name alone."""
    names = [
        p.name for p in (ROOT / "tests").rglob("*.py") if p.stem not in ("conftest", "__init__")
    ]
    assert {name for name in names if names.count(name) > 1} == set()


def test_every_dependency_is_pinned_and_nothing_local_is():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.!+-]+", pin) for pin in pins)
    pinned = {_canonical(pin.partition("==")[0]) for pin in pins}
    project = PROJECT["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    assert {_canonical(Requirement(text).name) for text in needed} <= pinned


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_checks_before_a_change_lands_start_from_nothing():
    run = ROOT / ".ci" / "run"
    assert os.access(run, os.X_OK)
    text = run.read_text()
    assert "set -euo pipefail" in text
    order = [text.index(step) for step in ("rm -rf .venv", "make check", "make test")]
    assert order == sorted(order)


def test_the_public_api_is_what_the_readme_uses():
    assert {"LimbeckError", "Recipe", "build_plan", "load_recipe", "run"} <= set(limbeck.__all__)
    for name in re.findall(r"limbeck\.([a-z_]+)\(", (ROOT / "README.md").read_text()):
        assert name in limbeck.__all__


def test_the_version_is_in_the_changelog():
    assert f"## {limbeck.__version__}" in (ROOT / "CHANGELOG.md").read_text()
