"""The disk that caches take, planned before they are made and compared with what they took."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from limbeck import pipeline
from limbeck.cli import app
from limbeck.graph.disk import NOT_COUNTED
from test_pipeline import BUILD, tiny_recipe

FROZEN = {"student__freeze": ["vision_tower", "projector"]}
ONE = {"seeds": [0], "evaluate__models": ["student"], "benchmark__models": None}


def needs_of(recipe: Any) -> dict[str, dict[str, Any]]:
    return {need["what"]: need for need in pipeline.build_plan(recipe).disk}


@pytest.mark.parametrize(
    ("family", "coding", "bytes_per_token"),
    [
        ("qwen2_vl", "exact", 32 * 4),
        ("qwen2_vl", "int8", 32 + 4),
        ("qwen3_vl", "exact", 2 * 32 * 4),
        ("llava", "int8", 32 + 4),
    ],
)
def test_vision_features_take_what_the_plan_said(
    tmp_path: Path, family: str, coding: str, bytes_per_token: int
) -> None:
    recipe = tiny_recipe(
        tmp_path,
        **FROZEN,
        **ONE,
        student__build={**BUILD, "family": family, "vision_layers": 2},
        losses=[{"kind": "cross_entropy"}],
        training__cache_vision_features=coding,
        teacher__fine_tune=None,
    )
    before = needs_of(recipe)["vision features"]
    assert before["bytes"] is None
    assert before["unknown"] == NOT_COUNTED
    assert before["bytes_per_token"] == bytes_per_token
    pipeline.run(recipe, until="data")
    planned = needs_of(recipe)["vision features"]
    assert planned["samples"] == 8
    assert planned["bytes_per_token"] == bytes_per_token
    student = pipeline.run(recipe, until="train").stages[-1]
    manifest = json.loads((Path(student["folder"]) / "MANIFEST.json").read_text())
    facts = manifest["summary"]["vision_features"]
    assert planned["bytes"] == facts["visual_tokens"] * bytes_per_token
    assert planned["bytes"] <= facts["mebibytes"] * 2**20
    assert planned["tokens_per_sample"] <= before["tokens_per_sample"]


@pytest.mark.parametrize("signal", ["top_k", "hidden"])
def test_the_teacher_s_distributions_take_no_more_than_the_plan_said(
    tmp_path: Path, signal: str
) -> None:
    recipe = tiny_recipe(tmp_path, **ONE, label__signal=signal)
    assert needs_of(recipe)["teacher's distributions"]["unknown"] == NOT_COUNTED
    labels = pipeline.run(recipe, until="label").stages[-1]
    manifest = json.loads((Path(labels["folder"]) / "MANIFEST.json").read_text())
    signals = manifest["summary"]["signals"]
    planned = needs_of(recipe)["teacher's distributions"]
    assert planned["at_most"]
    assert planned["bytes"] >= signals["tokens"] * planned["bytes_per_token"]
    tensors = 0
    for path in Path(labels["folder"]).glob("signals-*.safetensors"):
        header = json.loads(path.read_bytes()[8:].split(b"\0")[0].split(b"}}")[0] + b"}}")
        rows = {n: one for n, one in header.items() if n not in ("__metadata__", "samples")}
        tensors += sum(one["data_offsets"][1] - one["data_offsets"][0] for one in rows.values())
    # Ids are coded for the largest that occurs, which is below the vocabulary's size.
    assert 0.8 * planned["bytes_per_token"] < tensors / signals["tokens"]
    assert tensors / signals["tokens"] <= planned["bytes_per_token"]


def model_folder(folder: Path, **config: Any) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"")
    options = {"patch_size": 14, "merge_size": 2, "min_pixels": 3136, "max_pixels": 12845056}
    (folder / "preprocessor_config.json").write_text(json.dumps(options))
    return str(folder)


def test_published_sizes_give_the_known_bytes_a_token(tmp_path: Path) -> None:
    sizes = {"vocab_size": 151_936, "torch_dtype": "bfloat16"}
    teacher = model_folder(tmp_path / "t", hidden_size=3584, **sizes)
    student = model_folder(tmp_path / "s", hidden_size=1536, **sizes)
    changes: dict[str, Any] = {
        **ONE,
        "teacher": {"backend": "transformers", "model": teacher},
        "student": {"model": student, "adapter": {}, "max_pixels": 705600},
        "label": {"limit": 10, "temperatures": [1, 2], "max_new_tokens": 64},
    }
    found = {}
    for signal, coding in (("top_k", "exact"), ("hidden", "int8")):
        changes["label"]["signal"] = signal
        recipe = tiny_recipe(tmp_path, **changes, training__cache_vision_features=coding)
        pipeline.run(recipe, until="data")
        found |= {(one["what"], one["kind"]): one for one in pipeline.build_plan(recipe).disk}
    assert found["teacher's distributions", "top_k"]["bytes_per_token"] == 178
    assert found["teacher's distributions", "hidden"]["bytes_per_token"] == 3584 + 12
    assert found["teacher's distributions", "hidden"]["bytes"] == 3596 * 64 * 10
    assert found["vision features", "exact"]["bytes_per_token"] == 2 * 1536
    assert found["vision features", "int8"]["bytes_per_token"] == 1536 + 4


def test_the_command_shows_it_and_says_what_it_does_not_know(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    student = model_folder(tmp_path / "s", hidden_size=64, vocab_size=100)
    recipe.write_text(
        f"name: x\nwork: {tmp_path}\ndata: {{source: screens, train: 4, validation: 0, test: 1}}\n"
        "teacher: {backend: transformers, model: nobody/teacher}\n"
        f"student: {{model: {student}, adapter: {{}}}}\n"
        "losses: [{kind: divergence}]\ntraining: {cache_vision_features: true}\n"
    )
    shown = CliRunner().invoke(app, ["plan", str(recipe)]).stdout
    assert "teacher's distributions (top_k): unknown (the teacher's sizes are not on this" in shown
    assert "vision features (exact): unknown (the data stage counts the samples)" in shown
    assert "128 bytes a token" in shown
    content = CliRunner().invoke(app, ["plan", str(recipe), "--json"]).stdout
    assert [one["what"] for one in json.loads(content)["disk"]] == [
        "teacher's distributions",
        "vision features",
    ]


def test_a_plan_without_caches_needs_no_disk_for_them(tmp_path: Path) -> None:
    assert pipeline.build_plan(tiny_recipe(tmp_path, label__signal="live")).disk == []
