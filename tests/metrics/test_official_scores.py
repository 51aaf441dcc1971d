"""Agreement with scores that the reference implementation gave on real captions."""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from limbeck.evaluate.scoring import score_file

DATA = Path(
    os.environ.get("LIMBECK_TEST_DATA")
    or Path(__file__).resolve().parents[2].parent / "shared" / "data"
)
COCO = DATA / "coco"
pytestmark = pytest.mark.skipif(not COCO.is_dir(), reason=f"no test data in {COCO}")
SETS = ["human_loo_5000", "fakecap2014_126", "clipscore_good_2", "clipscore_bad_2"]


@cache
def load(name: str) -> Any:
    return json.loads((COCO / f"{name}.json").read_text())


def rows_of(name: str) -> list[dict[str, Any]]:
    people = load("captions_val2017_refs")
    if name == "human_loo_5000":
        pairs = [(key, own[0], own[1:]) for key, own in people.items()]
    elif name == "fakecap2014_126":
        pairs = [(key, text, people[key]) for key, text in load("fakecap_126_hyps").items()]
    else:
        example = load("clipscore")
        machine = example[name.split("_")[1]]
        pairs = [(key, machine[key], own) for key, own in example["refs"].items()]
    return [{"id": key, "prediction": text, "references": own} for key, text, own in pairs]


@pytest.mark.parametrize("name", SETS)
def test_a_scored_file_agrees_with_the_official_scores(name: str, tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(name)))
    result = score_file(path, ["cider_d", "bleu", "rouge_l"], bootstrap=100)
    official = load("official_scores")[name]
    assert result["n"] == official["images"]
    scores = result["scores"]
    ours = {"CIDEr": scores["cider_d"]["value"], "ROUGE_L": scores["rouge_l"]["value"]}
    ours |= {f"Bleu_{n}": scores["bleu"]["details"][f"bleu_{n}"] for n in range(1, 5)}
    for key, value in ours.items():
        assert value == pytest.approx(official[key], abs=1e-6), key
    assert scores["bleu"]["value"] == ours["Bleu_4"]
