"""`limbeck verbalise`: what layers say is what their verbalisers and heads make of their states."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from limbeck import pipeline
from limbeck.cli import app
from limbeck.data.samples import read_samples
from limbeck.errors import DataError, UsageError
from limbeck.recipe import Recipe
from limbeck.report.matches import match_plots, over_time
from limbeck.training.verbalising import lowered_by
from limbeck.verbalise import describe, verbalise
from test_pipeline import TRAINING, tiny_recipe

SPEAKING = {
    "kind": "verbalised",
    "student_layers": [0],
    "teacher_layers": [0, 1],
    "verbalisers": {"steps": 4, "samples_per_step": 4, "learning_rate": 1e-2},
}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    recipe = tiny_recipe(
        tmp_path_factory.mktemp("spoken"),
        losses=[{"kind": "divergence"}, SPEAKING],
        phases=[{"losses": [{"kind": "cross_entropy"}], "training": {**TRAINING, "steps": 1}}],
        arms={"lens": {"losses.1.init": "logit_lens"}},
        evaluate__models=["student", "lens", "control"],
    )
    pipeline.run(recipe)
    return recipe


def test_the_last_line_is_the_model_itself_and_all_speak_along_the_answer(spoken: Recipe) -> None:
    found = verbalise(spoken, top=4)
    assert found["arm"] == "student-seed0"
    layers = {m: [one["layer"] for one in found[m]["said"]] for m in ("teacher", "student")}
    assert layers == {"teacher": [1, 2, None], "student": [1, None]}
    for model in ("teacher", "student"):
        positions = len(found[model]["answer"])
        for said in found[model]["said"]:
            assert len(said["tokens"]) == positions
            assert all(len(guesses) == 4 for guesses in said["tokens"])
            assert said["divergence"] >= -1e-6
        assert found[model]["said"][-1]["divergence"] == pytest.approx(0, abs=1e-6)
    assert found["matches"] == [pytest.approx([1.0, 0.0])] or sum(found["matches"][0]) == 1


def test_the_models_own_line_is_what_it_scores(spoken: Recipe) -> None:
    from limbeck.compare.models import comparison_of

    (teacher,) = comparison_of(spoken, ["teacher"]).models
    data = teacher.inputs["data"]
    sample = read_samples(data, "test")[0]
    session = teacher.answerer.located(teacher.inputs, "model").open(data, device="cpu")
    scored = session.score([sample], [sample.references[0]])[0]
    own = verbalise(spoken)["teacher"]["said"][-1]
    assert own["loss"] == pytest.approx(-scored.mean_log_probability, abs=1e-4)


def test_the_last_layer_of_a_logit_lens_is_the_model_itself(spoken: Recipe) -> None:
    found = verbalise(spoken, arm="lens")
    last_layer, itself = found["teacher"]["said"][-2:]
    assert last_layer["layer"] == 2, "the teacher has two layers"
    assert last_layer["text"] == itself["text"]
    assert last_layer["divergence"] == pytest.approx(0, abs=1e-4)
    assert verbalise(spoken)["student"] != found["student"]


def test_a_picture_of_the_users_and_an_answer_of_the_users(spoken: Recipe, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (96, 128), "white").save(tmp_path / "new.png")
    found = verbalise(
        spoken, image=tmp_path / "new.png", question="What is it?", answer="app screen"
    )
    assert (found["question"], found["answer"]) == ("What is it?", "app screen")
    assert "screen" in "".join(found["student"]["answer"])
    text = describe(found)
    assert "learnt from the teacher's layers" in text
    assert text.count("itself") >= 2


def test_the_command_prints_the_same_as_json(spoken: Recipe, tmp_path: Path) -> None:
    import yaml

    path = tmp_path / "spoken.yaml"
    path.write_text(yaml.safe_dump(spoken.model_dump(mode="json")))
    done = CliRunner().invoke(app, ["verbalise", str(path), "--seed", "1", "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["arm"] == "student-seed1"
    for wrong in (["--ask", "x"], ["--image", "x.png"], ["--image", "x.png", "--sample", "y"]):
        assert CliRunner().invoke(app, ["verbalise", str(path), *wrong]).exit_code == 2


def test_what_is_not_there_is_said_with_the_mend(spoken: Recipe) -> None:
    longer = spoken.training.model_copy(update={"steps": 9})
    with pytest.raises(DataError, match="run limbeck train first"):
        verbalise(spoken.model_copy(update={"training": longer}))
    with pytest.raises(UsageError, match="kind: verbalised"):
        verbalise(spoken, arm="control")
    with pytest.raises(UsageError, match="no sample 'nowhere'"):
        verbalise(spoken, sample_id="nowhere")


def test_the_report_tells_how_well_layers_speak_and_how_matches_change(spoken: Recipe) -> None:
    folder = Path(spoken.work) / "runs" / spoken.name / "report"
    results = json.loads((folder / "results.json").read_text())
    assert {"teacher", "student-seed0 before training"} <= set(results["verbalisers"])
    for facts in results["verbalisers"].values():
        for lens, own, by in zip(
            facts["logit_lens_losses"], facts["losses"], facts["lowered_by"], strict=True
        ):
            assert by["value"] == pytest.approx(lens - own, abs=2e-6)
            assert by["low"] <= by["value"] <= by["high"]
    page = (folder / "index.html").read_text()
    assert "How well layers speak" in page
    assert "Matches of student-seed0" in page
    assert "How well layers speak" in (folder / "README.md").read_text()


def test_matches_of_a_quarter_are_those_since_the_one_before() -> None:
    rows = [{"step": n, "matches": [[n, 0 if n < 5 else n - 4]]} for n in range(1, 9)]
    quarters = over_time([{"step": 0}, *rows, {"step": 9}])
    assert [(one["until_step"], one["counts"]) for one in quarters] == [
        *((2, [[2, 0]]), (4, [[2, 0]])),
        *((6, [[2, 2]]), (8, [[2, 2]])),
    ]
    assert [one["until_step"] for one in over_time(rows[:1])] == [1]
    assert over_time([{"step": 1}]) == []
    assert match_plots({"training": {"a": {"matches_over_time": []}}}) == []


def test_the_interval_of_what_speaking_gained_is_that_of_a_ratio_over_samples() -> None:
    gained = lowered_by([2.0, 6.0, 4.0], [1.0, 3.0, 3.0], [1, 3, 2])
    value = 5 / 6
    spread = sum((d - value * n) ** 2 for d, n in ((1, 1), (3, 3), (1, 2)))
    half = 1.96 * math.sqrt(3 / 2 * spread) / 6
    assert gained["value"] == pytest.approx(value, abs=1e-6)
    assert (gained["low"], gained["high"]) == pytest.approx((value - half, value + half), abs=1e-6)
    even = lowered_by([2.0, 4.0], [1.0, 2.0], [1, 2])
    assert even == {"value": 1.0, "low": 1.0, "high": 1.0}
