"""SIGKILL at any moment: the next run goes on and ends in the same weights and predictions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

RECIPE = """
name: killed
seeds: [0]
data: {source: screens, train: 24, validation: 2, test: 4}
teacher:
  backend: transformers
  build: &model {family: qwen2_vl, hidden_size: 32, layers: 1, heads: 4, key_value_heads: 2,
                 intermediate_size: 48, vision_hidden_size: 32, vision_layers: 1, vision_heads: 2}
  fine_tune: {training: {steps: 30, samples_per_step: 4, checkpoint_every: 5}}
student: {build: {<<: *model}}
label: {answers: gold, top_k: 4, batch_size: 2}
losses: [{kind: cross_entropy}, {kind: divergence}]
training: {steps: 30, samples_per_step: 4, samples_per_micro_batch: 2, checkpoint_every: 4,
           log_every: 3}
evaluate: {models: [student, control], metrics: [exact_match], max_new_tokens: 8, batch_size: 2}
"""
SEEN = ("*/*/MANIFEST.json", "*/*-partial/checkpoints/step-*", "*/*-partial/*.jsonl")
COMPARED = {
    "labels": "labels.parquet",
    "student": "student/model.safetensors",
    "predictions": "predictions.jsonl",
    "evaluation": "scores.json",
}


def start(recipe: Path, work: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "limbeck", "evaluate", str(recipe), "--set", f"work={work}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(recipe: Path, work: Path) -> None:
    run = start(recipe, work)
    _, errors = run.communicate(timeout=200)
    assert run.returncode == 0, errors.decode()[-2000:]


def progress(work: Path) -> set[str]:
    """What a run has on disk: a change of it is the moment for a kill."""
    return {str(path) for pattern in SEEN for path in work.glob(pattern)}


def results(work: Path) -> dict[str, bytes]:
    return {
        f"{kind}/{folder.name}": (folder / name).read_bytes()
        for kind, name in COMPARED.items()
        for folder in sorted((work / kind).iterdir())
        if folder.is_dir()
    }


@pytest.mark.timeout(600)
def test_runs_killed_again_and_again_end_where_an_unbroken_one_ends(tmp_path: Path) -> None:
    recipe = tmp_path / "killed.yaml"
    recipe.write_text(RECIPE)
    finish(recipe, tmp_path / "unbroken")
    kills = 0
    for _ in range(8):
        run = start(recipe, tmp_path / "broken")
        before = progress(tmp_path / "broken")
        while run.poll() is None and progress(tmp_path / "broken") == before:
            time.sleep(0.005)
        if run.poll() is None:
            run.send_signal(signal.SIGKILL)
            kills += 1
        run.communicate()
    finish(recipe, tmp_path / "broken")
    assert kills == 8
    assert results(tmp_path / "broken") == results(tmp_path / "unbroken")


def test_sigterm_saves_and_ends_with_75(tmp_path: Path) -> None:
    recipe = tmp_path / "killed.yaml"
    recipe.write_text(RECIPE.replace("\ntraining: {steps: 30", "\ntraining: {steps: 5000"))
    work = tmp_path / "work"
    run = start(recipe, work)
    deadline = time.time() + 150
    while not list(work.glob("student/*-partial/metrics.jsonl")):
        assert run.poll() is None
        assert time.time() < deadline
        time.sleep(0.1)
    run.send_signal(signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 75
    assert b"run the same command to go on" in errors
    assert b"Traceback" not in errors
    assert list(work.glob("student/*-partial/checkpoints/step-*"))
