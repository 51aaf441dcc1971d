"""Main effects: a planted one is found with its size, and none is found where there is none."""

from __future__ import annotations

import random
from typing import Any

import pytest

from limbeck.evaluate.effects import Ablation, Factor
from limbeck.evaluate.scoring import ModelPredictions, score_models
from limbeck.metrics.exact_match import ExactMatch
from limbeck.recipe import arms_of
from limbeck.recipe.design import design_of
from limbeck.records import Prediction, Sample
from limbeck.report.ablation import ablation_of
from limbeck.report.ablation_tables import ablation_tables, plain_text

FACTOR = Factor("training.steps", (("a", "c"), ("b", "d")))


def scored(shares: dict[str, float], ablation: Any, *, seeds: int = 4, n: int = 300) -> Any:
    """Arms that answer a share of the samples right, by chance, each seed anew."""
    samples = [Sample(str(i), "test", (), references=("yes",)) for i in range(n)]
    models = []
    for arm, share in shares.items():
        for seed in range(seeds):
            chance = random.Random(f"{arm} {seed}")
            answers = [
                Prediction(s.id, arm, "yes" if chance.random() < share else "no", 1)
                for s in samples
            ]
            models.append(ModelPredictions(f"{arm}-seed{seed}", arm, seed, answers))
    scores, _ = score_models(models, samples, [ExactMatch()], bootstrap=400, ablation=ablation)
    return scores


def test_an_effect_is_the_difference_of_level_means_over_the_other_axes() -> None:
    ablation = Ablation((FACTOR,), frozenset("bcd"), frozenset())
    scores = scored({"a": 0.2, "b": 0.6, "c": 0.4, "d": 0.8}, ablation)
    (row,) = scores["effects"]
    means = {arm["arm"]: arm["scores"]["exact_match"]["mean"] for arm in scores["arms"]}
    assert row["levels"][0]["mean"] == pytest.approx((means["a"] + means["c"]) / 2)
    assert row["levels"][1]["mean"] == pytest.approx((means["b"] + means["d"]) / 2)
    assert (row["best"], row["worst"]) == (1, 0)
    assert row["difference"]["mean"] == pytest.approx(0.4, abs=0.05)
    assert row["difference"]["low"] < 0.4 < row["difference"]["high"]
    assert [one["seed"] for one in row["difference"]["per_seed"]] == [0, 1, 2, 3]
    pairs = {(one["a"], one["b"]) for one in scores["differences"]}
    assert pairs == {("a", "b"), ("a", "c"), ("a", "d")}, "points are not paired with one another"


def test_the_interval_holds_for_the_choice_of_the_best_and_the_worst_level() -> None:
    names = "abcdefgh"
    many = Factor("x", tuple((name,) for name in names))
    ablation = Ablation((many,), frozenset(names), frozenset())
    wide = scored(dict.fromkeys(names, 0.5), ablation, seeds=1)["effects"][0]["difference"]
    two = Ablation((Factor("x", (("a",), ("b",))),), frozenset(), frozenset())
    narrow = scored(dict.fromkeys("ab", 0.5), two, seeds=1)["effects"][0]["difference"]
    assert wide["high"] - wide["low"] > 1.3 * (narrow["high"] - narrow["low"])
    assert wide["low"] <= 0


def told(shares: dict[str, float], section: dict[str, Any], seeds: int = 4) -> Any:
    """The report's value of an ablation whose arms score so."""
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[1] / "recipe"))
    from test_ablation import ablating

    from limbeck.graph.ablation import ablation_of as evaluated

    recipe = ablating(section, seeds=list(range(seeds)))
    design = design_of(recipe)
    assert design is not None
    names = list(dict.fromkeys(arm.name for arm in arms_of(recipe) if arm.trained))
    scores = scored({name: shares.get(name, 0.5) for name in names}, evaluated(design), seeds=seeds)
    results = {"name": "x", "evaluation": scores, "costs": {}, "headline": "exact_match"}
    results["stages"] = []
    return {**results, "ablation": ablation_of(design, results)}


GRID = {"grid": {"losses.1.temperature": [1, 2], "training.steps": [40, 80]}}


def test_a_planted_effect_is_found_and_named_and_the_other_knob_is_not() -> None:
    shares = {"temperature-1_steps-80": 0.8, "temperature-2_steps-80": 0.8}
    results = told(shares, GRID)
    first, temperature, steps, *_ = results["ablation"]["sentences"]
    assert first.startswith("training.steps moved Exact match; no effect that we can tell of ")
    assert first.endswith("losses.1.temperature (300 samples, 4 seeds).")
    assert temperature.startswith("losses.1.temperature: no difference in Exact match that we")
    assert steps.startswith("training.steps: 80 is better than 40 by +0.")
    assert "averaged over 2 combinations of the others" in steps
    assert "all 4 seeds agree" in steps
    text = plain_text(ablation_tables(results)[0])
    assert "temperature-2_steps-80" in text
    assert "the recipe as it stands" in text
    assert any("comparisons by Exact match" in w for w in results["ablation"]["warnings"])


def test_no_effect_is_said_to_be_none() -> None:
    results = told({}, GRID)
    assert results["ablation"]["sentences"][0] == (
        "No knob moved Exact match beyond the noise (300 samples, 4 seeds)."
    )


def test_with_one_seed_no_knob_is_said_to_have_moved_anything() -> None:
    shares = {"temperature-1_steps-80": 0.9, "temperature-2_steps-80": 0.9}
    sentences = told(shares, GRID, seeds=1)["ablation"]["sentences"]
    assert sentences[0].startswith("No knob moved")
    assert "with one seed, chance between training runs is unknown" in sentences[2]


def test_a_list_says_which_points_helped_which_hurt_and_which_cannot_be_told() -> None:
    points = {n: {"training.steps": 50 + i} for i, n in enumerate(("good", "bad", "same"))}
    found = told({"good": 0.8, "bad": 0.2}, {"points": points})["ablation"]["sentences"]
    assert found[0].startswith("Helped in Exact match, against the student: good (+0.")
    assert found[1].startswith("Hurt in Exact match, against the student: bad (")
    assert found[2].startswith("No difference that we can tell in Exact match")
    assert "same (" in found[2]
    nothing = told({}, {"points": {"same": points["same"]}})["ablation"]["sentences"]
    assert nothing[0] == "None of the listed points moved Exact match beyond the noise."


def test_points_without_a_control_of_their_own_are_named_as_a_gap() -> None:
    warnings = told({}, GRID)["ablation"]["warnings"]
    assert any("at 2 of 3 points plain cross-entropy would see other" in w for w in warnings)
    controlled = told({}, {**GRID, "controls": True})["ablation"]
    assert not any("plain cross-entropy would see" in w for w in controlled["warnings"])
    assert controlled["sentences"][-1].startswith("Distillation against plain cross-entropy")
