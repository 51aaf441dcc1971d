from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

sys.path.insert(0, str(Path(__file__).parent))
from synthetic_stages import write_stages

from limbeck.report.write import write_report

PAGES = ("index.html", "README.md", "results.json", "model_card.md")


def card_of(inputs, folder: Path) -> str:
    write_report(folder, inputs)
    return (folder / "model_card.md").read_text()


def test_the_hub_library_reads_the_card_and_its_scores(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=24)
    inputs.recipe["student"] = {"model": "someone/small-vlm"}
    inputs.recipe["data"] |= {"source": "hub", "name": "someone/screens"}
    inputs.recipe["report"]["licences"] = {"student": "Apache-2.0"}
    text = card_of(inputs, tmp_path / "report")
    card = ModelCard(text)
    found = card.data.to_dict()
    assert found["license"] == "apache-2.0"
    assert found["base_model"] == ["someone/small-vlm"]
    assert found["datasets"] == ["someone/screens"]
    assert found["pipeline_tag"] == "image-text-to-text"
    assert found["metrics"] == ["exact_match", "rouge_l", "element_f1"]
    _, rows = model_index_to_eval_results(yaml.safe_load(text.split("---")[1])["model-index"])
    results = json.loads((tmp_path / "report" / "results.json").read_text())
    student = next(a for a in results["evaluation"]["arms"] if a["arm"] == "student")
    assert [row.metric_value for row in rows] == [s["mean"] for s in student["scores"].values()]
    own = student["scores"]["exact_match"]
    assert rows[0].metric_args == {
        "n": 24,
        "confidence": 0.95,
        "low": own["low"],
        "high": own["high"],
        "seeds": 2,
    }
    assert f"| student (2 seeds) | {own['mean']:.3f} [{own['low']:.3f}, {own['high']:.3f}]" in text
    for part in ("How it was trained", "optimiser steps: 600", "vllm serve", "transformers serve"):
        assert part in text


def scores(folder: Path) -> None:
    content = json.loads((folder / "evaluation" / "scores.json").read_text())
    student = next(arm for arm in content["arms"] if arm["arm"] == "student")
    student["scores"]["exact_match"]["mean"] = 0.54321
    (folder / "evaluation" / "scores.json").write_text(json.dumps(content))


def benchmark(folder: Path) -> None:
    path = folder / "benchmark" / "student-seed0" / "results.json"
    content = json.loads(path.read_text())
    for one in content["measurements"]:
        if one["name"] == "latency_ms":
            one["value"] = 98.765
    path.write_text(json.dumps(content))


def steps(folder: Path) -> None:
    path = folder / "student" / "student-seed0" / "metrics.jsonl"
    last = json.loads(path.read_text().splitlines()[-1])
    path.write_text(path.read_text() + json.dumps({**last, "step": 98765}) + "\n")


@pytest.mark.parametrize(
    ("change", "shown"), [(scores, "0.543"), (benchmark, "98.8 ms"), (steps, "98,765")]
)
def test_a_number_changed_in_a_results_file_changes_every_page(tmp_path, change, shown):
    inputs = write_stages(tmp_path / "stages", samples=12, seeds=(0,))
    write_report(tmp_path / "before", inputs)
    change(tmp_path / "stages")
    write_report(tmp_path / "after", inputs)
    for name in PAGES:
        before, after = ((tmp_path / f / name).read_text() for f in ("before", "after"))
        assert before != after, name
        if name != "results.json":
            assert shown not in before, name
            assert shown in after, name


def test_folders_of_this_machine_are_not_named(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=8)
    inputs.recipe["student"] = {"model": "/secret/place/model"}
    inputs.recipe["teacher"] = {"backend": "transformers", "model": "./own/model"}
    text = card_of(inputs, tmp_path / "report")
    about, found = text.split("---")[2].split("**")[0], yaml.safe_load(text.split("---")[1])
    assert "a model in a local folder, distilled from a model in a local folder" in about
    assert "base_model" not in found
    assert found["license"] == "unknown"
    assert "/secret" not in text


def test_hostile_names_stay_text_in_the_card(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=8)
    path = inputs.evaluation / "scores.json"
    content = json.loads(path.read_text())
    content["warnings"] = ["---\nlicense: mit\n<script>alert(1)</script>"]
    path.write_text(json.dumps(content))
    inputs.recipe["data"]["source"] = "x\n---\n# <b>"
    text = card_of(inputs, tmp_path / "report")
    assert ModelCard(text).data.to_dict()["license"] == "unknown"
    assert "<script" not in text
    assert "<b>" not in re.sub(r"(?s)^---.*?\n---\n", "", text)


def test_a_report_without_a_student_has_a_card_without_scores(tmp_path):
    inputs = write_stages(tmp_path / "stages", samples=8, arms=("teacher", "baseline"))
    found = yaml.safe_load(card_of(inputs, tmp_path / "report").split("---")[1])
    assert "model-index" not in found
