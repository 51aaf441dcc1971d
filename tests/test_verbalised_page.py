"""docs/verbalised.md shows what runs wrote, beside what was published, and says what is missing."""

from __future__ import annotations

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import verbalised_page as page  # noqa: E402

SCORE = {"mean": 0.5, "sd": 0.1, "low": 0.4, "high": 0.6, "n": 256, "per_seed": [0.4, 0.6]}
GAP = {"mean": -0.2, "low": -0.3, "high": -0.1, "outcome": "worse", "why": "both seeds agree"}
SEEDS = [{"seed": n, "value": -0.2, "low": -0.3, "high": -0.1} for n in (0, 1)]


def results(name: str, points: list[str]) -> dict[str, Any]:
    """Of a run as the report stage writes them, with more in them than the page needs."""
    metric = {"kind": "element_f1", "name": "Element F1", "higher_is_better": True}
    facts = {
        **{"layers": [0, 2], "logit_lens_losses": [2.0, 1.0], "losses": [1.25, 1.5]},
        "lowered_by": [
            {"value": 0.75, "low": 0.5, "high": 1.0},
            {"value": -0.5, "low": -0.6, "high": -0.4},
        ],
        **{"own_loss": 0.125, "held_out_tokens": 1592, "held_out_samples": 30},
    }
    other = {"base": False, "control": "control", "scores": {"element_f1": SCORE}}
    other |= {"difference": {"element_f1": GAP}, "control_difference": None, "latency": None}
    base = {"name": "student", "arm": "student", **other, "base": True, "difference": None}
    found = {
        **{"name": name, "headline": "element_f1", "verdict": {"sentence": "It was tried."}},
        **{"evaluated": "2026-01-01T00:00:00Z", "versions": {}, "warnings": []},
        "recipe": {"seeds": [0, 1]},
        "verbalisers": {"teacher": facts},
        "evaluation": {
            **{"n": 256, "confidence": 0.95, "metrics": [metric]},
            "arms": [
                {"arm": arm, "seeds": [0, 1], "scores": {"element_f1": SCORE}}
                for arm in ("logits", "student")
            ],
            "differences": [
                {"metric": "element_f1", "a": "student", "b": "logits", **GAP, "per_seed": SEEDS}
            ],
            "models": ["much"],
        },
        "training": {
            "student-seed0": {
                "matches_over_time": [{"until_step": 9, "counts": [[3.0, 1.0], [0.0, 4.0]]}],
                "curve": ["much"],
            },
            "control-seed0": {"matches_over_time": []},
        },
    }
    if points:
        listed = [{"name": one, "arm": one, **other} for one in points]
        said = {"sentences": ["Hurt: random."], "warnings": ["this makes 2 comparisons"]}
        found["ablation"] = {"points": [base, *listed], **said, "effects": ["much"]}
    return found


def adopt(found: dict[str, Any], kept: Path, name: str | None = None) -> None:
    source = kept / "given.json"
    source.write_text(json.dumps(found))
    page.adopt(name or found["name"], source, kept / "results")


def rendered(kept: Path) -> str:
    return page.verbalised_page(ROOT / "docs" / "verbalised.md", kept / "results")


def test_the_ablation_stands_in_the_published_order_beside_the_published_figures(
    tmp_path: Path,
) -> None:
    adopt(results("verbalised-ablation", ["multinomial", "random"]), tmp_path)
    text = rendered(tmp_path)
    ours = "0.500 ± 0.100 [0.400, 0.600] | 256 × 2 | −0.200 [−0.300, −0.100] | worse: both seeds"
    random = text.index(f"| random | 77.0 / 50.0 / 62.0 / 52.0 | {ours}")
    multinomial = text.index(f"| multinomial | 82.0 / 54.5 / 68.5 / 58.5 | {ours}")
    whole = text.index(
        "| + adaptive temperature: the whole method | 86.3 / 59.7 / 75.8 / 69.3 | 0.5"
    )
    assert random < multinomial < whole
    assert "| bottom-1 | not stated | not run |" in text
    assert "- Hurt: random.\n- Mind: this makes 2 comparisons." in text


def test_a_difference_is_turned_towards_the_student_and_judged(tmp_path: Path) -> None:
    adopt(results("verbalised", []), tmp_path)
    text = rendered(tmp_path)
    assert "| logits | 0.500 ± 0.100 [0.400, 0.600] | 256 × 2 | +0.200 [+0.100, +0.300] |" in text
    assert "**It was tried.**" in text


def test_verbalisers_and_matches_come_with_intervals_and_shares(tmp_path: Path) -> None:
    adopt(results("verbalised", []), tmp_path)
    text = rendered(tmp_path)
    assert "interval above 0, in 1 of 2 layers" in text
    assert (
        "| verbalised | teacher | 1 | 2.000 | 1.250 | 0.750 [0.500, 1.000] | 0.125 | 1,592 / 30 |"
    ) in text
    assert "| 9 | 1 | 75 % | 25 % |\n| 9 | 2 | 0 % | 100 % |" in text


def test_what_is_kept_is_what_the_page_shows(tmp_path: Path) -> None:
    adopt(results("inner-states", ["attention"]), tmp_path)
    kept = (tmp_path / "results" / "inner-states.json").read_text()
    assert "much" not in kept
    assert "| attention | 0.500" in rendered(tmp_path)


def test_a_number_changed_by_hand_is_rendered_away(tmp_path: Path) -> None:
    true = page.verbalised_page(ROOT / "docs" / "verbalised.md", ROOT / "docs" / "results")
    assert (ROOT / "docs" / "verbalised.md").read_text(encoding="utf-8") == true
    forged = tmp_path / "verbalised.md"
    forged.write_text(true.replace("| teacher | 1 | 1.", "| teacher | 1 | 9."), encoding="utf-8")
    assert forged.read_text(encoding="utf-8") != true
    assert page.verbalised_page(forged, ROOT / "docs" / "results") == true


def test_without_results_the_page_says_so_and_claims_none(tmp_path: Path) -> None:
    text = rendered(tmp_path)
    assert text.count("no results are kept in this repository yet") == len(page.RUNS)
    assert "No run with verbalisers is kept" in text
    assert "No output is kept" in text
    assert "[0." not in text


def test_another_recipes_results_and_earlier_ones_are_refused(tmp_path: Path) -> None:
    found = results("verbalised", [])
    with pytest.raises(SystemExit, match="a run of 'verbalised'"):
        adopt(found, tmp_path, name="inner-states")
    earlier = copy.deepcopy(found)
    del earlier["verbalisers"]
    with pytest.raises(SystemExit, match="earlier version"):
        adopt(earlier, tmp_path)
    assert not (tmp_path / "results").exists()
