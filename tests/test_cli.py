"""The command line: stable exit codes, one line an error, results alone on stdout, a quick help."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import limbeck.pipeline
from limbeck import errors
from limbeck.cli import RECIPES, app
from limbeck.encoders.recipe import EncoderRecipe
from limbeck.pipeline import RunResult
from limbeck.recipe import load_recipe
from limbeck.recipe.component import component_names
from limbeck.recipe.reference import reference_page

DEMO = str(RECIPES / "demo.yaml")
HEAVY = {"torch", "transformers", "datasets", "pyarrow", "sacrebleu", "matplotlib", "peft"}
COMMANDS = [
    *("run", "plan", "data", "label", "train", "evaluate", "benchmark", "report"),
    "public",
    *("demo", "new", "schema", "doctor", "cache", "labels", "ablate", "compare", "verbalise"),
]


def limbeck_(*arguments: str) -> Any:
    return CliRunner().invoke(app, list(arguments))


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60
    )


@pytest.fixture
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def raising(monkeypatch: pytest.MonkeyPatch):
    """Makes `limbeck run` meet an exception."""

    def set_up(exception: BaseException) -> None:
        def run(*_: Any, **__: Any) -> RunResult:
            raise exception

        monkeypatch.setattr(limbeck.pipeline, "run", run)

    return set_up


# Start-up


def test_help_takes_less_than_half_a_second():
    """Of processor time, which other processes on the machine do not lengthen much."""

    def seconds() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "limbeck", "--help"], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(seconds() for _ in range(5)) < 0.5


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["plan", DEMO], ["schema"]])
def test_what_needs_no_model_loads_no_heavy_package(arguments: list[str], in_folder: Path):
    code = (
        "import sys\n"
        "from limbeck.cli import app\n"
        "try: app(sys.argv[1:], prog_name='limbeck')\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        f"print('loaded', sorted({HEAVY!r} & set(sys.modules)))"
    )
    done = python(code, *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "loaded []"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str):
    done = limbeck_(command, "--help")
    assert done.exit_code == 0
    assert "Usage" in done.stdout


def test_the_version_is_that_of_the_package():
    done = limbeck_("--version")
    assert (done.exit_code, done.stdout) == (0, f"limbeck {limbeck.__version__}\n")


def test_the_shell_completion_is_offered():
    done = subprocess.run(
        [sys.executable, "-m", "limbeck"],
        env={**os.environ, "_LIMBECK_COMPLETE": "source_bash"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "_LIMBECK_COMPLETE" in done.stdout


# Exit codes


@pytest.mark.parametrize(
    ("exception", "code"),
    [
        (errors.UsageError("w", where="r.yaml:3", mend="m"), 2),
        (errors.DataError("w", where="sample 7", mend="m"), 3),
        (errors.TeacherError("w", mend="m"), 4),
        (errors.NonFiniteError("w", mend="m"), 5),
        (errors.MemoryExhaustedError("w", mend="m"), 6),
        (errors.StoppedError("w", mend="m"), 75),
        (errors.LimbeckError("w", mend="m"), 1),
    ],
)
def test_our_errors_have_their_exit_code_and_one_line(raising: Any, exception: Any, code: int):
    raising(exception)
    done = limbeck_("run", DEMO)
    assert (done.exit_code, done.stdout) == (code, "")
    assert done.stderr == f"error: {exception}\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_stop_signal_between_two_stages_unwinds_and_ends_with_75(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
):
    left_in_order: list[bool] = []

    def run(*_: Any, **__: Any) -> RunResult:
        try:
            os.kill(os.getpid(), number)
            time.sleep(30)
        finally:
            left_in_order.append(True)
        raise AssertionError("the signal did nothing")

    monkeypatch.setattr(limbeck.pipeline, "run", run)
    before = signal.getsignal(number)
    result = limbeck_("run", DEMO)
    assert result.exit_code == 75
    assert result.stderr.count("\n") == 1
    assert number.name in result.stderr
    assert left_in_order
    assert signal.getsignal(number) == before


def test_an_interruption_ends_with_130(raising: Any):
    raising(KeyboardInterrupt())
    done = limbeck_("run", DEMO)
    assert (done.exit_code, done.stdout) == (130, "")
    assert "the same command goes on" in done.stderr


class OutOfMemoryError(RuntimeError):
    """As torch's, which is no MemoryError either."""


@pytest.mark.parametrize("exception", [MemoryError("x"), OutOfMemoryError("CUDA out of memory")])
def test_memory_that_runs_out_anywhere_ends_with_6(raising: Any, exception: Exception):
    raising(exception)
    done = limbeck_("run", DEMO)
    assert done.exit_code == 6
    assert "lower samples_per_micro_batch" in done.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES, errno.EIO])
def test_an_error_of_the_operating_system_names_the_path(raising: Any, number: int):
    raising(OSError(number, os.strerror(number), "/some/file"))
    done = limbeck_("run", DEMO)
    assert done.exit_code == 3
    assert done.stderr.startswith(f"error: /some/file: {os.strerror(number)}; ")


def test_an_unexpected_error_is_one_line_that_asks_for_a_report(raising: Any):
    raising(RuntimeError("first\nsecond \ud800"))
    done = limbeck_("run", DEMO)
    assert (done.exit_code, done.stdout) == (1, "")
    line = done.stderr
    assert line.startswith("unexpected error: RuntimeError: first second \\ud800; run again with")
    assert line.count("\n") == 1
    assert "Traceback" not in line


def test_debug_shows_the_traceback_and_keeps_the_exit_code(raising: Any):
    raising(errors.DataError("broken"))
    done = limbeck_("run", DEMO, "--debug")
    assert done.exit_code == 3
    assert "Traceback" in done.stderr
    assert done.stderr.endswith("error: broken\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ["frobnicate"],
        ["run"],
        ["run", DEMO, "--nonsense"],
        ["run", "nowhere.yaml"],
        ["run", "."],
        ["plan", DEMO, "--set", "name"],
        ["plan", DEMO, "--set", "nmae=x"],
        ["evaluate"],
        ["evaluate", DEMO, "--predictions", "x.jsonl"],
        ["evaluate", "--predictions", "x.jsonl", "--set", "a=b"],
        ["evaluate", "--predictions", "x.jsonl", "--metrics", "nonsense"],
        ["new", "--from", "nonsense"],
        ["new", "../up"],
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str], in_folder: Path):
    done = limbeck_(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr
    assert list(in_folder.iterdir()) == []


def test_an_unknown_recipe_is_one_line():
    done = limbeck_("plan", "nowhere.yaml")
    assert done.stderr.startswith("error: nowhere.yaml: cannot read the recipe (")
    assert done.stderr.count("\n") == 1


# Results on stdout


def test_json_stands_alone_on_stdout(monkeypatch: pytest.MonkeyPatch):
    def run(recipe: Any, *, until: str | None, on_event: Any) -> RunResult:
        print("a library that prints")
        return RunResult(recipe.name, [], Path("work/report/index.html"), "it won")

    monkeypatch.setattr(limbeck.pipeline, "run", run)
    done = limbeck_("run", DEMO, "--set", "name=other", "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "name": "other",
        "stages": [],
        "report": "work/report/index.html",
        "verdict": "it won",
    }
    assert "a library that prints" in done.stderr


def test_of_several_processes_the_first_alone_prints_the_result(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(limbeck.pipeline, "run", lambda recipe, **_: RunResult(recipe.name))
    monkeypatch.setenv("RANK", "1")
    assert limbeck_("run", DEMO, "--json").stdout == ""
    monkeypatch.setenv("RANK", "0")
    assert json.loads(limbeck_("run", DEMO, "--json").stdout)["name"] == "demo"


@pytest.mark.parametrize("stage", ["data", "label", "train", "evaluate", "benchmark", "report"])
def test_a_stage_command_runs_up_to_its_stage(monkeypatch: pytest.MonkeyPatch, stage: str):
    asked: list[str | None] = []

    def run(recipe: Any, *, until: str | None, on_event: Any) -> RunResult:
        asked.append(until)
        return RunResult(recipe.name)

    monkeypatch.setattr(limbeck.pipeline, "run", run)
    assert limbeck_(stage, DEMO).exit_code == 0
    assert limbeck_("run", DEMO).exit_code == 0
    assert asked == [stage, None]


def test_demo_is_a_run_of_the_recipe_that_comes_along(monkeypatch: pytest.MonkeyPatch):
    asked: list[Any] = []

    def run(recipe: Any, **_: Any) -> RunResult:
        asked.append(recipe)
        return RunResult(recipe.name, report=Path("here/index.html"), verdict="so it is")

    monkeypatch.setattr(limbeck.pipeline, "run", run)
    done = limbeck_("demo", "--set", "seeds=[7]")
    assert asked == [load_recipe(DEMO, ["seeds=[7]"])]
    assert done.stdout.splitlines() == ["so it is", "report: here/index.html"]


def test_plan_lists_the_stages_and_touches_nothing(in_folder: Path):
    done = limbeck_("plan", DEMO, "--json")
    assert done.exit_code == 0
    planned = json.loads(done.stdout)
    assert planned["problems"] == []
    kinds = [stage["kind"] for stage in planned["stages"]]
    assert kinds[0] == "data"
    assert kinds[-1] == "report"
    assert not any(stage["done"] for stage in planned["stages"])
    assert list(in_folder.iterdir()) == []
    assert f"{len(kinds)} stages, {len(kinds)} to do" in limbeck_("plan", DEMO).stdout


def test_plan_names_the_models_that_are_missing_and_how_to_get_them(
    in_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    done = limbeck_("plan", str(RECIPES / "screens.yaml"))
    assert done.exit_code in (2, 3, 4)
    assert "model 'Qwen/Qwen2-VL-7B-Instruct' is not on this machine" in done.stderr
    assert "hf download Qwen/Qwen2-VL-7B-Instruct" in done.stderr
    assert "data" in done.stdout
    assert list(in_folder.iterdir()) == []


def test_a_reader_that_leaves_early_is_no_error():
    command = f"{sys.executable} -m limbeck schema | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout == "{\n0\n"
    assert done.stderr == ""


def test_predictions_of_any_system_are_scored(in_folder: Path):
    rows = [
        {"id": "a", "prediction": "a red bus", "references": ["a red bus", "a bus"]},
        {"id": "b", "prediction": "two cats", "references": ["two dogs"]},
    ]
    Path("p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = limbeck_(
        "evaluate", "--predictions", "p.jsonl", "--metrics", "exact_match,bleu", "--json"
    )
    assert done.exit_code == 0
    scored = json.loads(done.stdout)
    assert scored["n"] == 2
    assert scored["scores"]["exact_match"]["value"] == 0.5
    assert set(scored["scores"]) == {"exact_match", "bleu"}
    lines = limbeck_("evaluate", "--predictions", "p.jsonl", "--metrics", "exact_match").stdout
    assert "0.5000" in lines
    assert "n 2" in lines
    assert "1.11 times the 2.2 of the references; 2 of 2 answers within a factor of 1.5" in lines


def test_metrics_of_a_file_take_options_as_in_a_recipe(in_folder: Path):
    row = {"id": 1, "prediction": "abcd", "references": ["abxy"]}
    Path("p.jsonl").write_text(json.dumps(row))

    def score(metrics: str):
        return limbeck_("evaluate", "--predictions", "p.jsonl", "--metrics", metrics, "--json")

    done = score("[{kind: anls, threshold: 0.6}, exact_match]")
    assert json.loads(done.stdout)["scores"]["anls"]["value"] == 0.5
    done = score("[{kind: embedding_similarity, model: nobody/nothing}]")
    assert (done.exit_code, done.stdout) == (2, "")
    assert "hf download nobody/nothing" in done.stderr
    assert score("[1]").exit_code == 2


def test_a_metric_that_is_unknown_names_the_option(in_folder: Path):
    Path("rows.jsonl").write_text('{"id": "1", "prediction": "a", "references": ["a"]}\n')
    result = limbeck_("evaluate", "--predictions", "rows.jsonl", "--metrics", "cidr_d")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --metrics: 'cidr_d' is not known; did you mean")


def test_predictions_that_are_broken_end_with_3(in_folder: Path):
    Path("p.jsonl").write_text('{"id": "a"}\n')
    done = limbeck_("evaluate", "--predictions", "p.jsonl")
    assert (done.exit_code, done.stdout) == (3, "")
    assert "p.jsonl:1" in done.stderr


def test_schema_is_json_or_the_reference_page():
    schema = json.loads(limbeck_("schema").stdout)
    assert set(schema["properties"]) >= {"data", "teacher", "student", "losses"}
    assert limbeck_("schema", "--markdown").stdout == reference_page() + "\n"


# New recipes


@pytest.mark.parametrize(
    "template",
    sorted(
        {path.stem for path in RECIPES.glob("*.yaml")}
        | set(component_names("limbeck.data.sources"))
    ),
)
def test_new_writes_a_commented_recipe_that_loads(in_folder: Path, template: str):
    done = limbeck_("new", "mine", "--from", template)
    assert (done.exit_code, done.stdout) == (0, "mine.yaml\n")
    text = Path("mine.yaml").read_text()
    assert text.startswith("#")
    if template == "encoders":
        assert "limbeck encoders mine.yaml" in text
        assert load_recipe("mine.yaml", schema=EncoderRecipe).name == "mine"
        return
    assert "limbeck run mine.yaml" in text
    recipe = load_recipe("mine.yaml")
    assert recipe.name == "mine"
    if template not in {path.stem for path in RECIPES.glob("*.yaml")}:
        assert recipe.data.model_dump()["source"] == template


def test_new_never_overwrites(in_folder: Path):
    Path("mine.yaml").write_text("precious")
    done = limbeck_("new", "mine")
    assert done.exit_code == 2
    assert "mine.yaml: the file is there already" in done.stderr
    assert Path("mine.yaml").read_text() == "precious"


def test_new_suggests_the_nearest_template(in_folder: Path):
    assert "did you mean 'parquet'?" in limbeck_("new", "--from", "parket").stderr


# Doctor


def test_doctor_reports_versions_devices_memory_and_disk(in_folder: Path):
    done = limbeck_("doctor", "--json")
    checks = {check["name"]: check for check in json.loads(done.stdout)}
    assert checks["python"]["state"] == "ok"
    assert checks["torch"]["found"]
    assert {"memory", "disk", "work folder", "hub cache", "bitsandbytes"} <= set(checks)
    failing = [check for check in checks.values() if check["state"] == "fail"]
    assert done.exit_code == bool(failing)
    assert list(in_folder.iterdir()) == []


def test_doctor_fails_where_the_work_folder_cannot_be(in_folder: Path):
    Path("work").write_text("a file")
    done = limbeck_("doctor")
    assert done.exit_code == 1
    assert "work is no folder" in done.stdout
    assert "--set work=PATH" in done.stdout


def test_doctor_names_a_package_that_is_too_old(monkeypatch: pytest.MonkeyPatch):
    import limbeck.doctor

    monkeypatch.setattr(limbeck.doctor, "version", lambda name: "0.0.1")
    done = limbeck_("doctor")
    assert done.exit_code == 1
    assert "fail    torch           0.0.1, needs >=" in done.stdout
