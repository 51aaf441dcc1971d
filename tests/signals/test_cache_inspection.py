"""`limbeck cache inspect` shows what a label stage's cache holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from limbeck import pipeline
from limbeck.cli import app
from limbeck.recipe import recipe_from

BUILD = {
    "family": "qwen2_vl",
    "hidden_size": 32,
    "layers": 1,
    "heads": 4,
    "key_value_heads": 2,
    "intermediate_size": 48,
    "vision_hidden_size": 32,
    "vision_layers": 1,
    "vision_heads": 2,
}


@pytest.fixture(scope="module", params=["top_k", "hidden"])
def labelled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    recipe = recipe_from(
        {
            "name": "tiny",
            "work": str(tmp_path_factory.mktemp("work")),
            "data": {"source": "screens", "train": 4, "validation": 1, "test": 1},
            "teacher": {"backend": "transformers", "build": BUILD},
            "student": {"build": BUILD},
            "label": {"answers": "gold", "signal": request.param, "top_k": 8},
            "losses": [{"kind": "divergence"}],
        }
    )
    stage = pipeline.run(recipe, until="label").stages[-1]
    return request.param, Path(stage["folder"])


def inspect(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["cache", "inspect", *arguments])


def test_json_holds_cost_key_shards_and_a_sample(labelled: tuple[str, Path]) -> None:
    signal, folder = labelled
    found = json.loads(inspect(str(folder), "--json").stdout)
    summary = json.loads((folder / "MANIFEST.json").read_text())["summary"]["signals"]
    assert found["statistics"] == summary
    assert summary["bytes_per_token"] == pytest.approx(summary["bytes"] / summary["tokens"])
    assert "teacher" in found["key"]
    assert [shard["file"] for shard in found["shards"]] == ["signals-00000.safetensors"]
    assert found["shards"][0]["samples"] == 4
    assert ("tail_mass" if signal == "top_k" else "kl_nats") in summary
    tokens = found["sample"]["tokens"]
    assert len(tokens) > 3
    for token in tokens:
        shown = [other["percent"] for other in token["likeliest"]]
        assert len(shown) == 5
        assert shown == sorted(shown, reverse=True)
        assert sum(shown) <= 100.001
        if signal == "hidden":
            assert token["percent"] is not None


def test_a_named_sample_is_decoded_to_its_own_answer(labelled: tuple[str, Path]) -> None:
    from limbeck.data.labels import read_labels

    _, folder = labelled
    for row in read_labels(folder)[:2]:
        found = json.loads(inspect(str(folder), "--sample", row.sample_id, "--json").stdout)
        text = "".join(token["token"] for token in found["sample"]["tokens"])
        assert found["sample"]["id"] == row.sample_id
        assert "".join(text.split()).startswith("".join(row.text.split()))


def test_text_is_for_reading_and_errors_name_the_mend(
    labelled: tuple[str, Path], tmp_path: Path
) -> None:
    _, folder = labelled
    shown = inspect(str(folder))
    assert shown.exit_code == 0
    for words in ("bytes per token", "entropy nats", "agreement", "key: teacher", "sample "):
        assert words in shown.stdout
    unknown = inspect(str(folder), "--sample", "nobody")
    assert unknown.exit_code == 3
    assert "nobody" in unknown.stderr
    assert inspect(str(tmp_path)).exit_code == 3
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    shard = copy / "signals-00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(bytes(content))
    broken = inspect(str(copy))
    assert broken.exit_code == 3
    assert "damaged" in broken.stderr


def test_a_folder_without_a_cache_is_told_from_one_that_is_not_finished(
    labelled: tuple[str, Path], tmp_path: Path
) -> None:
    finished, begun = tmp_path / "finished", tmp_path / "begun"
    for folder in (finished, begun):
        folder.mkdir()
    shutil.copy(labelled[1] / "MANIFEST.json", finished)
    for folder in (tmp_path / "nowhere", finished):
        result = inspect(str(folder))
        assert result.exit_code == 3
        assert f"error: {folder}: holds no cached distributions; give work/labels" in result.stderr
    assert "is not finished; run the label stage again" in inspect(str(begun)).stderr
