from __future__ import annotations

from typing import Any

import pytest

from limbeck.errors import UsageError
from limbeck.report.verdict import (
    Claim,
    difference,
    half_width_over_seeds,
    outcome,
    verdict,
)


def planted(
    *,
    control: tuple[float, float, float] | None = (0.1, 0.05, 0.15),
    seeds: tuple[float, ...] = (0.098, 0.102),
    higher_is_better: bool = True,
    teacher: bool = True,
) -> dict[str, Any]:
    """A scores.json with one metric, where student − control is as given."""

    def arm(name: str, mean: float) -> dict[str, Any]:
        found = {"mean": mean, "sd": 0.01, "low": mean - 0.05, "high": mean + 0.05}
        own = [None] if name == "teacher" else list(range(len(seeds)))
        return {"arm": name, "seeds": own, "scores": {"exact_match": {**found, "n": 256}}}

    def pair(b: str, mean: float, low: float, high: float, values: tuple[float, ...]) -> Any:
        rows = [{"seed": i, "value": v, "low": low, "high": high} for i, v in enumerate(values)]
        base = {"metric": "exact_match", "a": "student", "b": b, "n": 256}
        return {**base, "mean": mean, "low": low, "high": high, "per_seed": rows}

    arms = [arm("student", 0.9), arm("baseline", 0.1)]
    differences = [pair("baseline", 0.8, 0.75, 0.85, (0.8,) * len(seeds))]
    if teacher:
        arms.append(arm("teacher", 1.0))
        differences.append(pair("teacher", -0.1, -0.13, -0.07, (-0.1,) * len(seeds)))
    if control:
        arms.append(arm("control", 0.8))
        differences.append(pair("control", *control, seeds))
    return {
        "n": 256,
        "confidence": 0.95,
        "bootstrap": 1000,
        "metrics": [
            {"kind": "exact_match", "name": "exact match", "higher_is_better": higher_is_better}
        ],
        "arms": arms,
        "models": [],
        "differences": differences,
    }


def test_a_model_and_itself_blanked_share_their_training():
    row = {"mean": 0.5, "low": 0.4, "high": 0.6}
    one = {**row, "per_seed": [{"seed": 0, "value": 0.5}]}
    assert outcome({**one, "a": "student", "b": "student_blanked"}, True)[0] == "better"
    assert outcome({**one, "a": "student", "b": "most_frequent"}, True)[0] == "better"
    assert outcome({**one, "a": "student", "b": "teacher_blanked"}, True)[0] == "better"
    assert outcome({**one, "a": "student", "b": "control"}, True)[0] == "tie"
    assert outcome({**one, "a": "student", "b": "control_blanked"}, True)[0] == "tie"


def test_floors_do_not_change_the_verdict():
    scores = planted()
    plain = verdict(scores, costs={}, steps={})
    for name in ("student_blanked", "teacher_blanked", "most_frequent"):
        score = {"mean": 0.95, "sd": None, "low": 0.9, "high": 1.0, "n": 256}
        scores["arms"].append({"arm": name, "seeds": [None], "scores": {"exact_match": score}})
        row = {"metric": "exact_match", "a": "student", "b": name, "n": 256, "per_seed": []}
        scores["differences"].insert(0, {**row, "mean": -0.05, "low": -0.1, "high": -0.01})
    assert verdict(scores, costs={}, steps={}) == plain


def cost(latency: float = 100.0, memory: float = 400.0, **more: Any) -> dict[str, Any]:
    def one(name: str, value: float, unit: str, **fields: Any) -> dict[str, Any]:
        place = {"regime": "natural_length/batch_1", "name": name, "unit": unit, "n": 9}
        return {**place, "value": value, "low": value, "high": value, **fields}

    measurements = [
        one("latency_ms", latency, "ms"),
        one("peak_memory_mib", memory, "MiB", memory_kind=more.pop("memory_kind", "process RSS")),
    ]
    conditions = {"precision": "float32", "runtime": "transformers", "machine": {"device": "cpu"}}
    sizes = {"parameters": 2_000_000, "disk_bytes": 8_000_000}
    return {"measurements": measurements, **conditions, **sizes, **more}


def claim(found: Any, key: str) -> Claim:
    return next(one for one in found.claims if one.key == key)


def test_a_win_needs_an_interval_without_zero_and_every_seed():
    found = verdict(planted(), steps={"student": [600, 600], "control": [600, 600]})
    assert claim(found, "control").outcome == "better"
    assert "distillation beats plain cross-entropy training at equal steps (600)" in found.sentence


def test_a_tie_is_no_difference_we_can_tell():
    found = verdict(planted(control=(0.01, -0.03, 0.05), seeds=(0.01, 0.01)))
    assert claim(found, "control").outcome == "tie"
    assert "no difference we can tell between distillation and plain" in found.sentence


def test_a_loss_is_called_a_loss():
    found = verdict(planted(control=(-0.1, -0.15, -0.05), seeds=(-0.098, -0.102)))
    assert claim(found, "control").outcome == "worse"
    assert "distillation loses to plain cross-entropy training" in found.sentence


def test_seeds_that_disagree_in_sign_make_no_win():
    found = verdict(planted(control=(0.05, 0.01, 0.09), seeds=(0.12, -0.02)))
    assert claim(found, "control").outcome == "tie"
    assert "only 1 of 2 seeds agree" in claim(found, "control").why


def test_a_seed_at_exactly_zero_does_not_agree():
    found = verdict(planted(control=(0.05, 0.01, 0.09), seeds=(0.1, 0.0)))
    assert claim(found, "control").outcome == "tie"


def test_an_interval_that_touches_zero_makes_no_win():
    assert (
        verdict(planted(control=(0.05, 0.0, 0.1), seeds=(0.05, 0.05))).claims[-1].outcome == "tie"
    )


def test_one_seed_tells_no_two_training_runs_apart():
    found = verdict(planted(seeds=(0.1,)))
    assert claim(found, "control").outcome == "tie"
    assert "chance between two training runs is unknown" in claim(found, "control").why
    assert claim(found, "baseline").outcome == "better"
    assert "chance between seeds is unknown" in claim(found, "baseline").why
    assert "with 1 seed" in found.sentence


def test_seeds_that_spread_as_wide_as_the_difference_make_no_win():
    found = verdict(planted(control=(0.11, 0.08, 0.14), seeds=(0.02, 0.2)))
    assert claim(found, "control").outcome == "tie"
    assert "over 2 seeds the difference is known to ± 1.144" in claim(found, "control").why


def test_the_interval_over_seeds_is_students():
    # Mean 2, standard deviation 1, three values: 4.303 / sqrt(3).
    assert half_width_over_seeds([1.0, 2.0, 3.0]) == pytest.approx(2.4843, abs=1e-3)


def test_a_missing_control_is_not_measured():
    found = verdict(planted(control=None))
    assert claim(found, "control").outcome == "not_measured"
    assert "whether distillation beats plain cross-entropy was not measured" in found.sentence


def test_a_missing_teacher_leaves_the_students_own_score():
    found = verdict(planted(teacher=False))
    assert claim(found, "teacher").outcome == "not_measured"
    assert "0.900 [0.850, 0.950]" in found.sentence
    assert "teacher was not measured" in found.sentence


def test_where_less_is_better_a_positive_difference_is_a_loss():
    found = verdict(planted(higher_is_better=False))
    assert claim(found, "control").outcome == "worse"
    assert claim(found, "baseline").outcome == "worse"
    assert claim(found, "teacher").outcome == "better"
    assert "reaches" not in found.sentence


def test_the_share_of_the_teacher_comes_with_its_interval():
    sentence = verdict(planted()).sentence
    assert (
        "reaches 90.0 % of the teacher's exact match (87.0 % to 93.0 %; 0.900 against" in sentence
    )
    assert "256 samples with 2 seeds, 95 % intervals" in sentence


def test_a_difference_stored_the_other_way_round_is_turned():
    scores = planted(control=(0.1, 0.05, 0.15), seeds=(0.098, 0.102))
    turned = difference(scores, "exact_match", "control", "student")
    assert turned is not None
    assert (turned["mean"], turned["low"], turned["high"]) == (-0.1, -0.15, -0.05)
    assert [seed["value"] for seed in turned["per_seed"]] == [-0.098, -0.102]
    assert outcome(turned, higher_is_better=True)[0] == "worse"


def test_arms_that_share_no_seed_are_not_told_apart():
    found = verdict(planted(control=(0.1, 0.05, 0.15), seeds=()))
    assert claim(found, "control").outcome == "tie"
    assert "share no seed" in claim(found, "control").why


def test_a_headline_that_was_not_scored_is_refused_with_those_that_were():
    with pytest.raises(UsageError, match=r"report\.headline: 'bleu' was not scored.*exact_match"):
        verdict(planted(), headline="bleu")


def test_no_student_means_nothing_to_judge():
    scores = planted()
    scores["arms"] = [arm for arm in scores["arms"] if arm["arm"] != "student"]
    assert verdict(scores).claims == ()
    assert "No student" in verdict(scores).sentence


def test_the_recipes_headline_metric_is_the_one_judged():
    scores = planted()
    scores["metrics"].append({"kind": "rouge_l", "name": "ROUGE-L", "higher_is_better": True})
    assert verdict(scores).metric == "exact_match"
    assert verdict(scores, headline="rouge_l").metric == "rouge_l"


def test_costs_say_how_much_smaller_faster_and_leaner():
    costs = {"teacher": cost(), "student": cost(50.0, 100.0, parameters=500_000)}
    sentence = verdict(planted(), costs=costs).sentence
    assert (
        "4.0× fewer parameters, 2.0× lower latency and 4.0× less memory (process RSS)" in sentence
    )


def test_latency_names_the_speed_at_equal_length_and_answers_that_differ_in_length():
    def more(fixed_ms: float, tokens: float, own_mib: float) -> list[dict[str, Any]]:
        place = {"n": 9, "low": None, "high": None}
        natural, kind = "natural_length/batch_1", {"memory_kind": "process RSS"}
        fixed = {"regime": "fixed_length/batch_1", "name": "latency_ms", "unit": "ms"}
        length = {"regime": natural, "name": "new_tokens_mean", "unit": "tokens/sample"}
        own = {"regime": natural, "name": "model_peak_memory_mib", "unit": "MiB", **kind}
        return [
            {**place, **fixed, "value": fixed_ms},
            {**place, **length, "value": tokens},
            {**place, **own, "value": own_mib},
        ]

    teacher, student = cost(), cost(20.0)
    teacher["measurements"] += more(90.0, 40.0, 41.0)
    student["measurements"] += more(30.0, 20.0, 12.0)
    found = verdict(planted(), costs={"teacher": teacher, "student": student})
    assert "At equal answer length: 3.0× the speed." in claim(found, "latency").statement
    assert "answers have 20.0 tokens against 40.0" in claim(found, "latency").why
    assert "Without the bare runtime: 12.0 MiB against 41.0 MiB" in claim(found, "memory").statement


def test_a_slower_student_is_called_slower():
    costs = {"teacher": cost(), "student": cost(150.0)}
    found = verdict(planted(), costs=costs)
    assert claim(found, "latency").outcome == "worse"
    assert "1.50× higher latency" in found.sentence
    assert "about the same memory" in found.sentence


def test_unmeasured_costs_are_said_to_be_so():
    assert "its cost was not measured" in verdict(planted()).sentence
    found = verdict(planted(), costs={"student": cost()})
    assert claim(found, "latency").outcome == "not_measured"
    assert "benchmark of the teacher" in claim(found, "latency").why


def test_different_kinds_of_memory_are_never_compared():
    costs = {"teacher": cost(memory_kind="CUDA allocated"), "student": cost(memory=10.0)}
    found = verdict(planted(), costs=costs)
    assert claim(found, "memory").outcome == "not_measured"
    assert "less memory" not in found.sentence


def test_a_mixed_pair_is_labelled():
    costs = {"teacher": cost(precision="int8"), "student": cost(50.0)}
    found = verdict(planted(), costs=costs)
    assert "lower latency (mixed pair)" in found.sentence
    assert "int8 (teacher), float32 (here)" in claim(found, "latency").why


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ({"student": [600, 600], "control": [400, 400]}, "at unequal steps (600 against 400)"),
        ({"student": [600]}, "(steps not recorded)"),
        ({"student": [1200, 1200], "control": [1200, 1200]}, "at equal steps (1,200)"),
    ],
)
def test_equal_steps_are_checked_not_assumed(steps, words):
    assert words in verdict(planted(), steps=steps).sentence
