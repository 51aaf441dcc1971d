"""Two ranks train what one trains, and a signal to one of them stops both."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

RECIPE = """
name: ranks
seeds: [0]
data: {source: screens, train: 24, validation: 2, test: 2}
teacher:
  backend: transformers
  build: &model {family: qwen2_vl, hidden_size: 32, layers: 1, heads: 4, key_value_heads: 2,
                 intermediate_size: 48, vision_hidden_size: 32, vision_layers: 1, vision_heads: 2}
student: {build: {<<: *model}}
label: {answers: gold, top_k: 4}
losses: [{kind: cross_entropy}, {kind: divergence}]
training: {steps: 5, samples_per_step: 7, samples_per_micro_batch: 2, precision: fp32,
           log_every: 1, checkpoint_every: 2}
evaluate: {models: [student], metrics: [exact_match]}
"""


def command(recipe: Path, work: Path, ranks: int, *overrides: str) -> list[str]:
    own = ["-m", "limbeck", "train", str(recipe), "--set", f"work={work}"]
    own += [part for override in overrides for part in ("--set", override)]
    if ranks == 1:
        return [sys.executable, *own]
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    return [sys.executable, *launch, *own]


def weights(work: Path) -> dict[str, torch.Tensor]:
    (path,) = work.glob("student/*/student/model.safetensors")
    return load_file(path)


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


CROSSED = ("losses.1.kind=cross_tokenizer", "teacher.build.tokenizer=bpe")
SPEAKING = (
    *("losses.1.kind=verbalised", "losses.1.student_layers=1", "losses.1.teacher_layers=1"),
    "losses.1.verbalisers.steps=2",
)
CACHED = ("student.freeze=[vision_tower,projector]", "training.cache_vision_features=true")


@pytest.mark.parametrize(
    "overrides",
    [(), CROSSED, CACHED, SPEAKING],
    ids=["one tokenizer", "two tokenizers", "cached vision", "layers that speak"],
)
def test_two_ranks_end_where_one_ends(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    recipe = tmp_path / "ranks.yaml"
    recipe.write_text(RECIPE)
    assert yaml.safe_load(RECIPE)
    for ranks in (1, 2):
        # One step, since Adam amplifies rounding where a gradient is nearly zero.
        done = subprocess.run(
            command(recipe, tmp_path / f"w{ranks}", ranks, "training.steps=1", *overrides),
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    losses = [
        yaml.safe_load(next((tmp_path / f"w{r}").glob("student/*/metrics.jsonl")).read_text())
        for r in (1, 2)
    ]
    assert losses[1]["loss"] == pytest.approx(losses[0]["loss"], rel=1e-5)
    assert losses[1]["gradient_norm"] == pytest.approx(losses[0]["gradient_norm"], rel=1e-5)
    one, two = weights(tmp_path / "w1"), weights(tmp_path / "w2")
    close = [torch.isclose(one[n], two[n], atol=2e-6).float().mean().item() for n in one]
    assert min(close) > 0.98


def test_two_ranks_end_where_one_ends_on_shared_pictures(tmp_path: Path) -> None:
    write_questions(tmp_path)
    recipe = tmp_path / "ranks.yaml"
    data = f"data: {{source: jsonl, path: {tmp_path}/rows.jsonl}}"
    recipe.write_text(re.sub("data: .*", data, RECIPE))
    for ranks in (1, 2):
        overrides = ("training.steps=1", "training.share_prefix=true")
        overrides += ("training.samples_per_micro_batch=5", "training.samples_per_step=11")
        done = subprocess.run(
            command(recipe, tmp_path / f"w{ranks}", ranks, *overrides),
            env=ENVIRONMENT,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert "12 samples on 4 sets of pictures" in done.stderr
    rows = [
        yaml.safe_load(next((tmp_path / f"w{r}").glob("student/*/metrics.jsonl")).read_text())
        for r in (1, 2)
    ]
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"], rel=1e-5)
    assert rows[1]["gradient_norm"] == pytest.approx(rows[0]["gradient_norm"], rel=1e-5)


def write_questions(folder: Path) -> None:
    """Three questions on each of four pictures."""
    lines: list[str] = []
    for n, colour in enumerate(("red", "green", "blue", "white")):
        Image.new("RGB", (84, 56), colour).save(folder / f"{colour}.png")
        for question in ("Which colour?", "What is the colour of the wall?", "Is it dark?"):
            parts = [{"type": "image"}, {"type": "text", "text": question}]
            row = {
                "messages": [{"role": "user", "content": parts}],
                "images": [f"{colour}.png"],
                "answers": [f"{colour} {n} " + "wall on the left side"[: 5 * (len(question) % 5)]],
            }
            lines.append(json.dumps(row))
    (folder / "rows.jsonl").write_text("\n".join(lines))


def test_a_signal_to_one_rank_stops_both_at_the_same_step(tmp_path: Path) -> None:
    recipe = tmp_path / "ranks.yaml"
    recipe.write_text(RECIPE)
    work = tmp_path / "work"
    arguments = command(recipe, work, 2, "training.steps=4000", "training.checkpoint_every=3000")
    with subprocess.Popen(
        arguments, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        deadline = time.time() + 200
        while not list(work.glob("student/*-partial/metrics.jsonl")):
            assert run.poll() is None
            assert time.time() < deadline
            time.sleep(0.2)
        ranks = sorted(psutil.Process(run.pid).children(), key=lambda child: child.pid)
        ranks[1].send_signal(signal.SIGUSR1)
        _, errors = run.communicate(timeout=100)
    assert "exitcode  : 75" in errors or "exitcode: 75" in errors or run.returncode == 75
    (saved,) = work.glob("student/*-partial/checkpoints/step-*")
    assert saved.is_dir()
