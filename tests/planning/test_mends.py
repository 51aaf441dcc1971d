"""What a plan proposes where something does not fit, does make it fit."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from limbeck import pipeline
from limbeck.cli import app
from limbeck.errors import UsageError
from limbeck.planning.machine import machine_of, parsed
from limbeck.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "src" / "limbeck" / "recipes"
SCREENS = str(RECIPES / "screens.yaml")


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def needs_of(gpu: str, *settings: str) -> dict[str, Any]:
    return pipeline.build_plan(load_recipe(SCREENS, settings), gpu=gpu).needs


def typed(mends: list[dict[str, Any]]) -> list[str]:
    """The arguments of --set as a shell hands them over."""
    words = [word for mend in mends for text in mend["arguments"] for word in shlex.split(text)]
    return [word for word in words if word != "--set"]


@pytest.mark.parametrize(
    ("gpu", "settings"),
    [
        ("8GiB", []),
        ("16GiB", ["student.adapter=null"]),
        ("20GiB", ["teacher.quantization=none", "label.signal=live"]),
        ("16GiB", ["training.gradient_checkpointing=false", "training.samples_per_micro_batch=32"]),
        ("12GiB", ["teacher.quantization=none"]),
    ],
)
def test_what_is_proposed_makes_it_fit(gpu: str, settings: list[str]) -> None:
    before = needs_of(gpu, *settings)
    assert before["fits"] is False
    mends = before["mends"]
    assert mends[-1]["fits"]
    assert all(not mend["fits"] for mend in mends[:-1]), "it stops at the first that is enough"
    after = needs_of(gpu, *settings, *typed(mends))
    assert after["fits"] is True
    assert after["too_large"] == after["mends"] == []
    without_last = needs_of(gpu, *settings, *typed(mends[:-1]))
    assert without_last["fits"] is False, "the last one was needed"


def test_harmless_changes_come_first_and_are_not_gone_beyond() -> None:
    mends = needs_of("8GiB")["mends"]
    names = {name for mend in mends for name in mend["settings"]}
    assert names == {"label.batch_size", "evaluate.batch_size", "benchmark.batch_sizes"}
    lost = needs_of("12GiB", "teacher.quantization=none")["mends"]
    assert {"teacher.quantization": "nf4"} in [mend["settings"] for mend in lost] or {
        "teacher.quantization": "int8"
    } in [mend["settings"] for mend in lost]


def test_a_machine_that_nothing_makes_large_enough_is_told_so() -> None:
    needs = needs_of("3GiB")
    assert needs["fits"] is False
    assert not any(mend["fits"] for mend in needs["mends"])
    shown = CliRunner().invoke(app, ["plan", SCREENS, "--gpu", "3GiB"]).stdout
    assert "nothing more that Limbeck knows makes it fit" in shown


def test_a_card_that_is_large_enough_needs_no_change() -> None:
    needs = needs_of("24GiB")
    assert needs["fits"] is True
    assert needs["mends"] == []
    shown = CliRunner().invoke(app, ["plan", SCREENS, "--gpu", "24GiB"]).stdout
    assert "fits: a GPU of 24GiB" in shown
    assert "published sizes of Qwen/Qwen2-VL-7B-Instruct" in shown


def test_not_fitting_is_an_exit_code_only_when_asked(tmp_path: Path) -> None:
    recipe = str(RECIPES / "demo.yaml")
    arguments = ["plan", recipe, "--set", f"work={tmp_path}", "--ram", "1GiB"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert CliRunner().invoke(app, [*arguments, "--strict"]).exit_code == 6
    enough = ["plan", recipe, "--set", f"work={tmp_path}", "--ram", "64GiB", "--strict"]
    assert CliRunner().invoke(app, enough).exit_code == 0


def test_all_of_it_is_in_the_json(tmp_path: Path) -> None:
    recipe = str(RECIPES / "demo.yaml")
    done = CliRunner().invoke(app, ["plan", recipe, "--set", f"work={tmp_path}", "--json"])
    found = json.loads(done.stdout)
    assert {"machine", "fits", "mends", "disk", "time", "too_large", "unknown"} <= set(
        found["needs"]
    )
    for row in found["stages"]:
        assert {"memory", "disk", "time"} <= set(row)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("24GiB", (1, 24 * 2**30)),
        ("24GB", (1, 24e9)),
        ("4x80GiB", (4, 80 * 2**30)),
        ("512 MiB", (1, 2**29)),
        ("1.5TiB", (1, 1.5 * 2**40)),
    ],
)
def test_sizes_are_read_as_people_write_them(text: str, expected: tuple[int, float]) -> None:
    assert parsed(text, "--gpu") == expected


@pytest.mark.parametrize("text", ["", "24", "0GiB", "0x24GiB", "-1GiB", "big", "24GiBs", "2x"])
def test_what_is_no_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="write it as 24GiB or 4x80GiB"):
        parsed(text, "--gpu")


def test_a_plan_is_for_one_device() -> None:
    with pytest.raises(UsageError, match="give one of them"):
        machine_of("cpu", gpu="24GiB", ram="8GiB")
    with pytest.raises(UsageError, match="16GiB"):
        machine_of("cpu", ram="2x8GiB")
    assert machine_of("cpu").device == "cpu"
    assert machine_of("cpu", gpu="2x24GiB").count == 2
