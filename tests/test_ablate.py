"""`limbeck ablate` from the command line to its page: shared, resumable, paired, told in words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from limbeck import pipeline
from limbeck.ablate import Asked, ablation_recipe, axis_of
from limbeck.cli import app
from limbeck.errors import UsageError
from test_pipeline import Killed, kill_in, tiny_recipe

GRID = ("losses.1.weight=0.5,1", "training.steps=3,4")


def written(work: Path, **changes: Any) -> Path:
    changes = {"evaluate__models": ["student", "control"], "benchmark__models": None, **changes}
    values = tiny_recipe(work, **changes).model_dump(mode="json")
    path = work / "tiny.yaml"
    work.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump(values))
    return path


def test_a_killed_ablation_goes_on_and_makes_only_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path)
    recipe = ablation_recipe(path, (), Asked(GRID))
    undo = kill_in("predictions", monkeypatch)
    with pytest.raises(Killed):
        pipeline.run(recipe)
    undo()
    before = {f.name for f in (tmp_path / "student").iterdir() if (f / "MANIFEST.json").is_file()}
    assert len(before) == 2 * 5, "four points, one of them the student, and the control: two seeds"
    arguments = ["ablate", str(path), *(word for axis in GRID for word in ("--grid", axis))]
    shown = CliRunner().invoke(app, [*arguments, "--json"])
    assert shown.exit_code == 0, shown.stderr
    after = {f.name for f in (tmp_path / "student").iterdir() if f.is_dir()}
    assert after == before, "nothing is trained twice"
    found = json.loads(shown.stdout)
    assert [point["name"] for point in found["points"]] == [
        *("student", "weight-0.5_steps-3", "weight-0.5_steps-4", "weight-1_steps-4")
    ]
    for point in found["points"][1:]:
        pairs = point["difference"]["rouge_l"]["per_seed"]
        assert [one["seed"] for one in pairs] == [0, 1], "paired by seed"
        assert point["cost_of"] == "student", "the same model is not timed again"
    assert {row["axis"] for row in found["effects"]} == {"losses.1.weight", "training.steps"}
    again = CliRunner().invoke(app, arguments)
    assert "Points of the ablation" in again.stdout
    assert found["sentences"][0] in again.stdout
    page = Path(found["report"]).read_text()
    markdown = (Path(found["report"]).parent / "README.md").read_text()
    assert 'id="ablation"' in page
    assert "ROUGE-L by training.steps" in page
    assert "## Ablation" in markdown
    assert (tmp_path / "runs" / "tiny-ablation" / "results.json").is_file()
    assert not (tmp_path / "runs" / "tiny").exists(), "the recipe's own run keeps its name"
    one = ablation_recipe(path, (), Asked(("training.steps=3,4,5",)))
    made = [p for p in pipeline.build_plan(one).stages if p.stage.kind == "student" and not p.done]
    assert len(made) == 2, "steps=4 was a point of the grid before; only steps=5 is new"


def test_arms_of_a_recipe_are_an_ablation_without_more_ado(tmp_path: Path) -> None:
    models = ["student", "control", "plain"]
    path = written(tmp_path, arms={"plain": {"losses": ["divergence"]}}, evaluate__models=models)
    shown = CliRunner().invoke(app, ["ablate", str(path), "--plan", "--json"])
    found = json.loads(shown.stdout)
    assert found["axes"] == {"arm": ["student", "plain"]}
    assert found["to_do"] == found["stages"] > 0
    assert not (tmp_path / "data").exists(), "a plan makes nothing"


def test_the_command_line_adds_to_the_recipe_s_own_section(tmp_path: Path) -> None:
    section = {"grid": {"training.steps": [3, 4]}, "points": {"a": {"label.top_k": 2}}}
    path = written(tmp_path, ablate=section)
    listed = tmp_path / "list.yaml"
    listed.write_text("b: {label.top_k: 3}\n")
    asked = Asked(("training.learning_rate=1e-3,1e-4",), listed, True, True, "5,6", "element_f1")
    recipe = ablation_recipe(path, ["losses.1.weight=2"], asked)
    assert recipe.ablate is not None
    assert set(recipe.ablate.grid) == {"training.steps", "training.learning_rate"}
    assert set(recipe.ablate.points) == {"a", "b"}
    assert (recipe.ablate.one_at_a_time, recipe.ablate.controls) == (True, True)
    assert recipe.seeds == (5, 6)
    assert recipe.report.headline == "element_f1"
    assert recipe.losses[1].model_dump()["weight"] == 2
    assert recipe.name == "tiny-ablation"
    assert ablation_recipe(path, ["name=mine"], asked).name == "mine"


def test_values_of_an_axis_are_read_as_yaml() -> None:
    assert axis_of("a.b=1,0.5,true,null,x") == ("a.b", [1, 0.5, True, None, "x"])
    assert axis_of("student.freeze=[],[head]") == ("student.freeze", [[], ["head"]])


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        (Asked(), "there is no point to compare with the student"),
        (Asked(("training.steps",)), "is not of the form a.b=1,2,4"),
        (Asked(("training.steps=",)), "is not of the form a.b=1,2,4"),
        (Asked(("evaluate.limit=1,2",)), "cannot differ between arms"),
        (Asked(GRID, metric="bleu"), "'bleu' is not evaluated"),
        (Asked(list_file=Path("/nowhere.yaml")), "/nowhere.yaml"),
    ],
)
def test_what_cannot_be_ablated_is_refused(tmp_path: Path, asked: Asked, words: str) -> None:
    path = written(tmp_path)
    with pytest.raises(UsageError) as caught:
        ablation_recipe(path, (), asked)
    assert words in str(caught.value)
