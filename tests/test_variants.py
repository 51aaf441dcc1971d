"""The recipe's other roads through the same stages: adapters, freezing, mixed targets, own data."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from limbeck import pipeline
from limbeck.errors import DataError
from test_pipeline import BUILD, TRAINING, tiny_recipe

DATA = Path(os.environ.get("LIMBECK_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def student_of(result: pipeline.RunResult) -> Path:
    return Path(next(r["folder"] for r in result.stages if r["title"] == "student-seed0"))


def only_student(tmp_path: Path, **changes: Any) -> pipeline.RunResult:
    options = {"seeds": [0], "evaluate__models": ["student"], "benchmark__models": None}
    return pipeline.run(tiny_recipe(tmp_path / "work", **options, **changes), until="train")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def pretrained(tmp_path: Path) -> dict[str, Any]:
    """A student that is a folder on disk, as a downloaded one would be."""
    result = only_student(tmp_path)
    return {"model": str(student_of(result) / "student"), "build": None}


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_an_adapter_trains_few_weights_and_leaves_a_plain_model(
    tmp_path: Path, pretrained: dict[str, Any], kind: str
) -> None:
    adapter = {"kind": kind, "rank": 4}
    student = {**pretrained, "adapter": adapter}
    result = only_student(tmp_path, student=student, training__gradient_checkpointing=True)
    folder = student_of(result)
    summary = json.loads((folder / "MANIFEST.json").read_text())["summary"]
    assert 0 < summary["trainable_parameters"] < 0.4 * summary["total_parameters"]
    before = load_file(Path(pretrained["model"]) / "model.safetensors")
    after = load_file(folder / "student" / "model.safetensors")
    assert after.keys() == before.keys()
    changed = {name for name in before if not before[name].equal(after[name])}
    assert changed
    assert all("language_model" in n or "layers" in n for n in changed), changed
    assert not any("visual" in name for name in changed)


def test_frozen_parts_do_not_move_and_the_others_do(tmp_path: Path) -> None:
    result = only_student(tmp_path, student__freeze=["vision_tower"])
    built = next(r for r in result.stages if r["title"].startswith("student before"))
    before = load_file(Path(built["folder"]) / "model" / "model.safetensors")
    after = load_file(student_of(result) / "student" / "model.safetensors")
    moved = {name for name in before if not before[name].equal(after[name])}
    tower = {n for n in before if "visual" in n and "merger" not in n}
    assert tower
    assert not moved & tower
    assert any("merger" in name for name in moved)


def test_gold_and_teacher_targets_are_trained_on_side_by_side(tmp_path: Path) -> None:
    losses = [
        {"kind": "cross_entropy", "target": "gold", "weight": 0.5},
        {"kind": "divergence", "target": "teacher", "weight": 0.5},
    ]
    result = only_student(tmp_path, losses=losses, training__log_every=1)
    folder = student_of(result)
    summary = json.loads((folder / "MANIFEST.json").read_text())["summary"]
    assert summary["examples"] == 16, "eight samples, two answers each"
    for row in rows(folder):
        assert row["losses"]["cross_entropy"] > 0
        assert row["losses"]["divergence_forward"] > 0


def test_a_step_can_be_measured_in_answer_tokens(tmp_path: Path) -> None:
    training = {**TRAINING, "tokens_per_step": 50, "samples_per_step": None, "log_every": 1}
    folder = student_of(only_student(tmp_path, training=training))
    counts = [row["answer_tokens"] for row in rows(folder)]
    steps = [b - a for a, b in zip([0, *counts], counts, strict=False)]
    assert all(50 <= tokens < 75 for tokens in steps), steps


def test_arms_of_the_user_stand_beside_the_built_in_ones(tmp_path: Path) -> None:
    changes = {
        "arms": {"reverse": {"losses.1.direction": "reverse"}, "longer": {"training.steps": 5}},
        "evaluate__models": ["student", "reverse", "longer"],
        "seeds": [0],
        "benchmark__models": None,
    }
    result = pipeline.run(tiny_recipe(tmp_path / "work", **changes), until="evaluate")
    steps = {
        r["title"]: json.loads((Path(r["folder"]) / "MANIFEST.json").read_text())["summary"][
            "steps"
        ]
        for r in result.stages
        if r["kind"] == "student"
    }
    assert steps == {"student-seed0": 3, "reverse-seed0": 3, "longer-seed0": 5}
    scores = json.loads((Path(result.stages[-1]["folder"]) / "scores.json").read_text())
    assert {row["arm"] for row in scores["arms"]} == {"student", "reverse", "longer"}


def test_prompts_that_do_not_fit_the_context_are_refused_with_the_budget(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="context holds 40") as raised:
        only_student(tmp_path, student__context_tokens=40)
    assert "max_pixels" in str(raised.value)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(not (DATA / "screens").is_dir(), reason="the test data is not beside this tree")
def test_real_screenshots_of_mixed_sizes_run_from_data_to_report(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    lines = (DATA / "screens" / "pairs.jsonl").read_text().splitlines()
    (tmp_path / "set" / "pairs.jsonl").write_text("\n".join([*lines, '{"image": "gone.png"}']))
    model = {**BUILD, "tokenizer": "bpe", "tokenizer_vocabulary": 1024}
    changes = {
        "data": {
            "source": "jsonl",
            "path": str(tmp_path / "set" / "pairs.jsonl"),
            "image_root": str((DATA / "screens").resolve()),
            "columns": {"references": "captions", "category": "app", "metadata": ["licence"]},
        },
        "teacher": {
            "backend": "transformers",
            "build": model,
            "max_pixels": 16384,
            "fine_tune": {"training": {**TRAINING, "steps": 10, "samples_per_step": 8}},
        },
        "student": {"build": {**model, "layers": 1}, "max_pixels": 16384},
        "label__limit": 40,
        "seeds": [0],
    }
    result = pipeline.run(tiny_recipe(tmp_path / "work", **changes))
    results = json.loads((tmp_path / "work" / "runs" / "tiny" / "results.json").read_text())
    assert results["evaluation"]["n"] == 98
    assert result.report is not None
    assert "quarantine" in result.report.read_text().lower()
    data = next(r for r in result.stages if r["kind"] == "data")
    summary = json.loads((Path(data["folder"]) / "MANIFEST.json").read_text())["summary"]
    assert summary["samples"] == {"train": 990, "validation": 133, "test": 98}
    assert summary["quarantined"] == 1


def test_a_student_of_the_teachers_layers_starts_from_its_weights(tmp_path: Path) -> None:
    inherit = {
        "language": {"rule": "influence", "count": 1},
        "vision": {"rule": "first", "count": 1},
    }
    changes = {
        "student": {"inherit": inherit},
        "seeds": [0, 1],
        "evaluate__models": ["student", "baseline"],
        "benchmark__models": None,
    }
    result = pipeline.run(tiny_recipe(tmp_path / "work", **changes), until="evaluate")
    made = [row for row in result.stages if row["title"] == "student of the teacher's layers"]
    assert len(made) == 1, "no seed goes into it, so both seeds share it"
    baselines = [row for row in result.stages if row["title"].startswith("baseline")]
    assert [row["title"] for row in baselines] == ["baseline"]
    before = load_file(Path(made[0]["folder"]) / "model" / "model.safetensors")
    teacher = next(Path(r["folder"]) for r in result.stages if r["kind"] == "teacher")
    theirs = load_file(teacher / "student" / "model.safetensors")
    assert len(before) < len(theirs)
    name = next(name for name in before if name.endswith("embed_tokens.weight"))
    assert before[name].equal(theirs[name])
    after = load_file(student_of(result) / "student" / "model.safetensors")
    assert after.keys() == before.keys()
    assert any(not after[name].equal(before[name]) for name in after)
