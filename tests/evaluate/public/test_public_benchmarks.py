"""Public benchmarks: asked and scored by lmms-eval, answered by Limbeck's models, shown.

The fast tests run Limbeck's worker with `fake_lmms_eval`, which has the shapes of lmms-eval's
sources; the same tests run lmms-eval for real with a local task where LIMBECK_LMMS_EVAL_PYTHON
names a Python that has it.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from chat_server import Body, ChatServer, Sent, completion, question
from limbeck import pipeline
from limbeck.cli import app
from limbeck.data.samples import read_samples
from limbeck.errors import TeacherError, UsageError
from limbeck.graph import graph_of
from limbeck.recipe import Recipe
from test_pipeline import tiny_recipe

PYTHON = os.environ.get("LIMBECK_LMMS_EVAL_PYTHON", "")
HERE = Path(__file__).parent
SAMPLES = 5


@pytest.fixture(
    params=[
        "fake",
        pytest.param(
            "real",
            marks=[
                pytest.mark.slow,
                pytest.mark.skipif(
                    not PYTHON,
                    reason="LIMBECK_LMMS_EVAL_PYTHON names no Python that has lmms-eval",
                ),
            ],
        ),
    ]
)
def lmms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """Which lmms-eval is found; a fake one with our own Python, or the real one with its own."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    if request.param == "fake":
        use_fake(monkeypatch)
    return request.param


def use_fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIMBECK_LMMS_EVAL_PYTHON", raising=False)
    places = (str(HERE / "fake_lmms_eval"), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))


@pytest.fixture
def local(tmp_path: Path, screens: Path) -> Path:
    """A folder with a task: what a caption of a screen is."""
    folder = tmp_path / "tasks"
    shutil.copytree(HERE / "local_task", folder)
    rows = [
        {
            "picture": str(screens / sample.images[0].path),
            "question": f"Number {number}: what is this?",
            "answer": f"screen {number}",
        }
        for number, sample in enumerate(read_samples(screens, "train", SAMPLES))
    ]
    path = folder / "rows.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = folder / "limbeck_local.yaml"
    task.write_text(task.read_text().replace("ROWS", str(path)))
    return folder


class Captions:
    """A served teacher that is right but for the first, and talks on after a blank line."""

    def __init__(self) -> None:
        self.bodies: list[Body] = []

    def __call__(self, body: Body, _: dict[str, str]) -> Sent:
        self.bodies.append(body)
        asked = question(body)
        number = asked.removeprefix("Number ").partition(":")[0]
        said = f"screen {number}" if number != "0" else "a cat"
        return Sent(completion(f"{said}\n\nNumber {number} again"))


def with_public(work: Path, chat: ChatServer, local: Path, **public: Any) -> Recipe:
    return tiny_recipe(
        work,
        seeds=[0],
        teacher={"backend": "openai", "base_url": chat.url, "model": "captions"},
        label__signal="none",
        losses=[{"kind": "cross_entropy"}],
        evaluate__models=["teacher", "baseline", "most_frequent"],
        benchmark__models=[],
        public={"tasks": ["limbeck_local"], "include": str(local), **public},
    )


def test_models_are_scored_on_a_task_and_the_report_shows_it(
    lmms: str, local: Path, tmp_path: Path
) -> None:
    captions = Captions()
    with ChatServer(captions) as chat:
        recipe = with_public(tmp_path / "work", chat, local)
        result = pipeline.run(recipe)
        asked = [body for body in captions.bodies if question(body).startswith("Number")]
        assert len(asked) == SAMPLES
        assert {body["max_tokens"] for body in asked} == {6}, "as the task says"
        kinds = [part["type"] for part in asked[0]["messages"][0]["content"]]
        assert kinds == ["image_url", "text"]
        before = len(captions.bodies)
        again = pipeline.run(recipe)
        assert len(captions.bodies) == before
    assert all(row["cached"] for row in again.stages)
    folder = next(Path(row["folder"]) for row in result.stages if row["kind"] == "public")
    found = json.loads((folder / "results.json").read_text())
    assert found["lmms_eval"] == ("0.0.1" if lmms == "fake" else found["lmms_eval"])
    assert [model["id"] for model in found["models"]] == ["teacher", "baseline-seed0"]
    (row,) = found["models"][0]["results"]
    assert {key: row[key] for key in ("task", "metric", "value", "n", "of", "version")} == {
        "task": "limbeck_local",
        "metric": "right",
        "value": 0.8,
        "n": SAMPLES,
        "of": SAMPLES,
        "version": "1.5",
    }
    assert row["higher_is_better"] is True
    assert row["low"] == pytest.approx(0.8 - 1.959964 * row["stderr"])
    assert row["stderr"] == pytest.approx(0.2)
    (other,) = found["models"][1]["results"]
    assert other["value"] == 0.0
    results = json.loads((tmp_path / "work" / "runs" / "tiny" / "results.json").read_text())
    assert results["public"] == found
    report = tmp_path / "work" / "runs" / "tiny" / "report"
    for name in ("index.html", "README.md"):
        page = (report / name).read_text()
        assert "Public benchmarks" in page
        assert "limbeck_local" in page
        assert "right ↑" in page


def test_a_folder_is_run_in_place_of_a_recipe(
    lmms: str, local: Path, tmp_path: Path, tiny_model: Path
) -> None:
    command = ["public", str(tiny_model), "--tasks", "limbeck_local", "--limit", "3"]
    command += ["--include", str(local), "--set", f"work={tmp_path / 'work'}", "--json"]
    ran = CliRunner().invoke(app, command)
    assert ran.exit_code == 0, ran.stderr
    found = json.loads(ran.stdout)
    (model,) = found["models"]
    assert model["id"] == str(tiny_model)
    assert (model["results"][0]["n"], model["results"][0]["of"]) == (3, SAMPLES)
    assert "not comparable with published results" in ran.stderr
    made = {path.name for path in (tmp_path / "work").iterdir()}
    assert not made & {"data", "labels", "student"}, "nothing but questions, answers and scores"
    shown = CliRunner().invoke(app, [*command[:-1]])
    assert "limbeck_local right" in shown.stdout


def test_an_unknown_task_is_named(lmms: str, local: Path, tmp_path: Path, tiny_model: Path) -> None:
    command = ["public", str(tiny_model), "--tasks", "limbeck_lokal", "--include", str(local)]
    ran = CliRunner().invoke(app, [*command, "--set", f"work={tmp_path / 'work'}"])
    assert ran.exit_code == TeacherError.exit_code
    assert "lmms-eval has no task 'limbeck_lokal'" in ran.stderr


def test_tasks_that_want_more_than_answers_are_refused(
    monkeypatch: pytest.MonkeyPatch, local: Path, tmp_path: Path, tiny_model: Path
) -> None:
    use_fake(monkeypatch)
    task = local / "limbeck_local.yaml"
    task.write_text(task.read_text().replace("generate_until", "loglikelihood"))
    command = ["public", str(tiny_model), "--tasks", "limbeck_local", "--include", str(local)]
    ran = CliRunner().invoke(app, [*command, "--set", f"work={tmp_path / 'work'}"])
    assert ran.exit_code == TeacherError.exit_code
    assert "wants loglikelihood, and only tasks with single answers" in ran.stderr


def test_without_lmms_eval_the_error_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, local: Path, tmp_path: Path, tiny_model: Path
) -> None:
    hidden = tmp_path / "hidden" / "lmms_eval"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ModuleNotFoundError(\"No module named 'x'\")")
    monkeypatch.delenv("LIMBECK_LMMS_EVAL_PYTHON", raising=False)
    places = (str(hidden.parent), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
    command = ["public", str(tiny_model), "--tasks", "limbeck_local", "--include", str(local)]
    ran = CliRunner().invoke(app, [*command, "--set", f"work={tmp_path / 'work'}"])
    assert ran.exit_code == UsageError.exit_code
    assert "LIMBECK_LMMS_EVAL_PYTHON" in ran.stderr


def test_a_recipe_without_tasks_or_with_a_strange_model_is_refused(
    tmp_path: Path, tiny_model: Path
) -> None:
    ran = CliRunner().invoke(app, ["public", str(tiny_model), "--set", f"work={tmp_path}"])
    assert ran.exit_code == UsageError.exit_code
    assert "give --tasks" in ran.stderr
    ran = CliRunner().invoke(app, ["public", str(tiny_model), "--tasks", "a", "--models", "b"])
    assert "a folder is one model" in ran.stderr
    for models in (["most_frequent"], ["control"]):
        with pytest.raises(UsageError) as caught:
            graph_of(
                tiny_recipe(
                    tmp_path,
                    evaluate__models=["teacher", "student", "most_frequent"],
                    public={"tasks": ["a"], "models": models},
                )
            )
        assert caught.value.where == "public.models.0"
