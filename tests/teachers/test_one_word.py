"""One recipe labels through each backend by changing one word (and where its Python is)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from limbeck import pipeline
from limbeck.data.labels import read_labels
from limbeck.recipe import recipe_from

FAKE = Path(__file__).parent / "fake_vllm"
MLX = os.environ.get("LIMBECK_MLX_PYTHON", "")
OTHERS = [
    pytest.param("vllm", {}),
    pytest.param(
        "mlx",
        {"python": MLX},
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(not MLX, reason="LIMBECK_MLX_PYTHON names no Python with mlx-vlm"),
        ],
    ),
]


def labelled(work: Path, model: Path, backend: str, **teacher: Any) -> tuple[Any, Any, Any]:
    recipe = recipe_from(
        {
            "name": "one-word",
            "work": str(work),
            "data": {"source": "screens", "train": 24, "validation": 2, "test": 8},
            "teacher": {"backend": backend, "model": str(model), **teacher},
            "student": {"model": str(model)},
            "label": {"limit": 8, "top_k": 8, "answers": "generated", "max_new_tokens": 60,
                      "checks": {"max_unfit_share": 0.99, "must_finish": False}},
            "losses": ["divergence"],
            "training": {"steps": 2, "samples_per_step": 4},
            "evaluate": {"max_new_tokens": 20},
            "benchmark": {"models": ["student"]},
        }
    )  # fmt: skip
    result = pipeline.run(recipe, until="label")
    (row,) = [row for row in result.stages if row["kind"] == "labels"]
    folder = work / "labels" / row["fingerprint"]
    signals = json.loads((folder / "signals.json").read_text())["statistics"]
    return read_labels(folder), signals, row["fingerprint"]


@pytest.mark.parametrize(("backend", "fields"), OTHERS)
def test_labels_and_signals_are_those_of_transformers(
    backend: str,
    fields: dict[str, Any],
    varied_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    places = (str(FAKE), os.environ.get("PYTHONPATH", ""))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))
    ours, our_signals, our_stage = labelled(tmp_path, varied_model, backend, **fields)
    theirs, their_signals, their_stage = labelled(tmp_path, varied_model, "transformers")
    assert our_stage != their_stage
    assert [(o.sample_id, o.text, o.valid, o.reasons, o.tokens) for o in ours] == [
        (t.sample_id, t.text, t.valid, t.reasons, t.tokens) for t in theirs
    ]
    assert len({label.text for label in ours}) > 4
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.mean_log_probability == pytest.approx(other.mean_log_probability, abs=1e-4)
    assert our_signals["agreement"] == their_signals["agreement"]
    assert our_signals["tail_mass"]["1"] == pytest.approx(their_signals["tail_mass"]["1"], abs=0.02)
