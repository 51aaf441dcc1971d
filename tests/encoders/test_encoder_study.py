"""`limbeck encoders` from recipe to report: resumed, not repeated, and failing where it should."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner

from limbeck.cli import RECIPES, app
from limbeck.encoders import scoring, training
from limbeck.encoders.graph import encoder_graph
from limbeck.encoders.recipe import EncoderRecipe
from limbeck.encoders.students.projection import Projection
from limbeck.errors import UsageError
from limbeck.recipe import load_recipe

RECIPE = """
name: tiny
seeds: [0]
datasets:
  scenes: {source: synthetic, train: 96, test: 60, classes: 3}
teachers:
  dino: {kind: dino, build: {width: 32, layers: 1, heads: 2, epochs: 6}}
students:
  projection: projection
  vit: {kind: vit, hidden_size: 32, layers: 1, heads: 2, image_size: 32, patch_size: 8}
arms:
  matching: {losses: [{kind: logit_matching}]}
training: {epochs: [3, 6], batch_size: 8, learning_rate: 3e-3}
evaluate: {bootstrap: 200}
benchmark: {samples: 2, repeats: 1, warmup: 1}
"""
FAST = (
    "students={projection: projection}",
    "benchmark.enabled=false",
    "arms={matching: {losses: [{kind: logit_matching}]}}",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("study")


def study(folder: Path, *overrides: str, work: str = "work") -> Any:
    path = folder / "tiny.yaml"
    path.write_text(RECIPE)
    sets = [part for one in (f"work={folder / work}", *overrides) for part in ("--set", one)]
    return CliRunner().invoke(app, ["encoders", str(path), "--json", *sets])


@pytest.fixture(scope="module")
def finished(folder: Path) -> dict[str, Any]:
    done = study(folder)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_one_command_writes_both_pages_and_all_figures(finished: dict[str, Any]):
    report = Path(finished["report"]).parent
    results = json.loads((report / "results.json").read_text())
    cells = {(cell["student"], cell["arm"]): cell for cell in results["cells"]}
    assert set(cells) == {
        (student, arm) for student in ("projection", "vit") for arm in ("cross_entropy", "matching")
    }
    for cell in cells.values():
        assert set(cell["epochs"]) == {"3", "6"}
        assert set(cell["epochs"]["6"]["scores"]) == {"head", "knn", "probe"}
        assert cell["epochs"]["6"]["scores"]["head"]["n"] == 60
        assert cell["epochs"]["3"]["seconds"] > 0
    assert set(results["teachers"]["scenes/dino"]) == {"knn", "probe"}
    adapter, pixels = cells["projection", "matching"], cells["vit", "matching"]
    shipped = adapter["cost"]["deployed_bytes"] / 2**20
    assert shipped > adapter["towers_mib"] + 0.04, "the teacher is deployed with its adapter"
    assert pixels["cost"]["deployed_bytes"] / 2**20 == pytest.approx(pixels["towers_mib"])
    page, text = (report / "index.html").read_text(), (report / "README.md").read_text()
    assert "http" not in page.replace("http-equiv", "")
    for shown in (page, text):
        assert "adapter (teacher required)" in shown
        assert "0.75 MiB" in shown
        assert "epoch 6" in shown


def test_a_second_run_makes_nothing(folder: Path, finished: dict[str, Any]):
    again = json.loads(study(folder).stdout)
    assert all(row["cached"] for row in again["stages"])
    assert not any(row["cached"] for row in finished["stages"])


def test_a_killed_training_goes_on_to_the_same_bytes(
    folder: Path, finished: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    students = [row for row in finished["stages"] if row["kind"] == "encoder_student"]
    for kind in ("encoder_data", "encoder_teacher", "encoder_features"):
        shutil.copytree(folder / "work" / kind, folder / "killed" / kind)
    one_epoch = training._epoch

    def killed(*arguments: Any) -> float:
        if arguments[-1] == 5:
            raise KeyboardInterrupt
        return one_epoch(*arguments)

    monkeypatch.setattr(training, "_epoch", killed)
    assert study(folder, "benchmark.enabled=false", work="killed").exit_code == 130
    begun: list[int] = []

    def watched(*arguments: Any) -> float:
        begun.append(arguments[-1])
        return one_epoch(*arguments)

    monkeypatch.setattr(training, "_epoch", watched)
    assert study(folder, "benchmark.enabled=false", work="killed").exit_code == 0
    assert begun[0] == 5
    for row in students:
        whole = Path(row["folder"])
        resumed = folder / "killed" / "encoder_student" / whole.name
        for path in whole.glob("*.safetensors"):
            assert path.read_bytes() == (resumed / path.name).read_bytes(), path


def test_a_teacher_of_a_folder_is_used_as_it_is(folder: Path, finished: dict[str, Any]):
    made = {row["kind"]: Path(row["folder"]) for row in finished["stages"]}
    teacher = f"{{dino: {{kind: dino, model: {made['encoder_teacher'] / 'model'}}}}}"
    done = study(folder, *FAST, f"teachers={teacher}", work="given")
    assert done.exit_code == 0, done.output
    rows = {row["kind"]: Path(row["folder"]) for row in json.loads(done.stdout)["stages"]}
    assert "encoder_teacher" not in rows
    for name in ("pooled.npy", "tokens.npy", "maps.npy", "logits.npy"):
        built = (made["encoder_features"] / name).read_bytes()
        assert (rows["encoder_features"] / name).read_bytes() == built


def test_arms_that_train_no_classifier_are_shown_by_their_neighbours(folder: Path):
    arms = "arms={features: {losses: [{kind: feature_distillation}]}}"
    assert study(folder, *FAST, arms, work="features").exit_code == 0
    results = json.loads((folder / "features/runs/tiny/results.json").read_text())
    shown = {cell["arm"]: (cell["headline"], cell["judged_by"]) for cell in results["cells"]}
    assert shown == {"cross_entropy": ("head", "head"), "features": ("knn", None)}
    assert any("no score can tell" in line for line in results["warnings"])


def failing(done: Any, folder: Path, work: str, message: str) -> None:
    """Exit code 7, after the report was written."""
    assert done.exit_code == 7, done.output
    assert "index.html" in done.stderr.splitlines()[-1], "says where the report is"
    results = json.loads((folder / work / "runs" / "tiny" / "results.json").read_text())
    assert any(message in line for line in results["failures"])
    assert "Guards that fired" in (folder / work / "runs/tiny/report/README.md").read_text()


def test_a_student_that_did_not_learn_fails_the_run_after_its_report(folder: Path):
    done = study(folder, *FAST, "training.learning_rate=1e-12", work="untrained")
    failing(done, folder, "untrained", "an untrained student reaches the trained student")
    again = study(folder, *FAST, "training.learning_rate=1e-12", work="untrained")
    assert again.exit_code == 7, "a finished report does not hide the guard"


def test_a_score_that_ignores_labels_fails_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def own_index(logits: torch.Tensor, _labels: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(logits), dtype=torch.float64)

    monkeypatch.setattr(scoring, "head_hits", own_index)
    done = study(folder, *FAST, work="ignoring")
    failing(done, folder, "ignoring", "a score against shuffled labels reaches")


class AcrossTheBatch(nn.Module):
    """The published fault: (B, d) taken for a sequence of B."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 4)
        self.head = nn.Linear(width, embedding)

    def forward(self, inputs: Any) -> tuple[Any, None]:
        x = inputs.pooled_BD
        return self.head(x + self.attention(x, x, x)[0]), None


def test_attention_across_the_batch_fails_the_run(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def tower(self: Any, shape: Any) -> nn.Module:
        return AcrossTheBatch(shape.width, self.embedding)

    monkeypatch.setattr(Projection, "image_tower", tower)
    done = study(folder, *FAST, work="across")
    failing(done, folder, "across", "depends on its neighbours in the batch")


def test_a_leak_fails_the_run(folder: Path):
    for number in range(8):
        coarse = np.random.default_rng(number % 6).integers(0, 255, (8, 8, 3), np.uint8)
        split = "train" if number < 5 else "test"
        path = folder / "pictures" / split / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC).save(path)
    source = f"datasets={{leaky: {{source: image_folder, path: {folder / 'pictures'}}}}}"
    done = study(folder, source, *FAST, work="leak")
    assert done.exit_code == 7, done.output
    assert "are in train too" in done.stderr


@pytest.mark.parametrize("kind", ["clip", "blip"])
def test_retrieval_is_scored_over_the_whole_split_both_ways(folder: Path, kind: str):
    tiny = "build: {width: 32, layers: 1, heads: 2, epochs: 2}"
    overrides = (
        *FAST,
        "datasets.scenes.task=retrieval",
        f"teachers={{{kind}: {{kind: {kind}, {tiny}}}, dino: {{kind: dino, {tiny}}}}}",
        "training={epochs: [2], batch_size: 32}",
    )
    done = study(folder, *overrides, work=f"retrieval-{kind}")
    assert done.exit_code in (0, 7), done.output  # so little training need not beat chance
    results = json.loads((folder / f"retrieval-{kind}/runs/tiny/results.json").read_text())
    assert results["left_out"] == ["scenes, dino: the teacher reads no text"]
    scores = results["cells"][0]["epochs"]["2"]["scores"]
    assert {f"image_to_text_r{r}" for r in (1, 5, 10)} < set(scores)
    assert {f"text_to_image_r{r}" for r in (1, 5, 10)} < set(scores)
    assert {row["n"] for row in scores.values()} == {60}


@pytest.mark.parametrize("path", sorted(RECIPES.glob("encoders*.yaml")), ids=lambda p: p.stem)
def test_shipped_studies_load_and_say_their_command(path: Path):
    recipe = load_recipe(path, schema=EncoderRecipe)
    assert recipe.name == path.stem
    graph = encoder_graph(recipe)
    assert graph.problems == []
    assert graph.stages[-1].kind == "encoder_report"
    head = path.read_text(encoding="utf-8").partition("\nname:")[0]
    assert f"limbeck encoders recipes/{path.name}" in head
    assert "xpect" in head


def test_a_mistake_in_the_recipe_is_told_with_its_line(tmp_path: Path):
    path = tmp_path / "slip.yaml"
    path.write_text(RECIPE.replace("kind: logit_matching", "kind: logit_maching"))
    with pytest.raises(UsageError, match="logit_maching"):
        load_recipe(path, schema=EncoderRecipe)
