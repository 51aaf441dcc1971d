from __future__ import annotations

from typing import Any

import pytest

from limbeck.report.cost import arm_cost, gains, latency, mixed_conditions, peak_memory


def benchmark(latency_ms: float, *, regime: str = "natural_length/batch_1", **more: Any) -> Any:
    def one(name: str, value: float, unit: str, **fields: Any) -> dict[str, Any]:
        place = {"regime": regime, "name": name, "unit": unit, "n": 5}
        return {**place, "value": value, "low": value - 1, "high": value + 1, **fields}

    return {
        "measurements": [
            one("latency_ms", latency_ms, "ms"),
            one("throughput_samples_per_second", 1000 / latency_ms, "samples/s"),
            one("peak_memory_mib", 4 * latency_ms, "MiB", memory_kind="process RSS"),
        ],
        "machine": {"device": "cpu", "threads": 1},
        "precision": "float32",
        "runtime": "eager",
        "parameters": int(latency_ms * 1000),
        "disk_bytes": int(latency_ms * 4000),
        **more,
    }


def test_an_arms_cost_is_the_mean_over_its_seeds_with_the_widest_spread():
    found = arm_cost([benchmark(10.0), benchmark(14.0)])
    one = latency(found)
    assert one is not None
    assert (one["value"], one["low"], one["high"], one["n"]) == (12.0, 9.0, 15.0, 10)
    assert found["parameters"] == 12_000


def test_gains_above_one_are_always_better_for_the_user():
    found = gains(arm_cost([benchmark(40.0)]), arm_cost([benchmark(10.0)]))
    assert found["parameters"] == pytest.approx(4)
    assert found["latency"]["gain"] == pytest.approx(4)
    assert found["memory"]["gain"] == pytest.approx(4)
    throughput = [m for m in found["measurements"] if m["name"].startswith("throughput")]
    assert throughput[0]["gain"] == pytest.approx(4)


def test_spreads_that_overlap_are_noticed():
    near = gains(arm_cost([benchmark(11.0)]), arm_cost([benchmark(10.0)]))
    far = gains(arm_cost([benchmark(40.0)]), arm_cost([benchmark(10.0)]))
    assert near["latency"]["spreads_overlap"] is True
    assert far["latency"]["spreads_overlap"] is False


def test_different_regimes_are_not_divided_by_one_another():
    fixed = arm_cost([benchmark(40.0, regime="fixed_length/batch_1")])
    assert gains(fixed, arm_cost([benchmark(10.0)]))["latency"] is None


@pytest.mark.parametrize(
    "changed",
    [{"precision": "int8"}, {"runtime": "vllm"}, {"machine": {"device": "cuda", "threads": 1}}],
)
def test_every_difference_in_conditions_makes_a_mixed_pair(changed):
    same = arm_cost([benchmark(10.0)])
    assert mixed_conditions(same, arm_cost([benchmark(20.0)])) == []
    assert len(mixed_conditions(same, arm_cost([benchmark(10.0, **changed)]))) == 1


def test_memory_falls_back_to_the_regime_that_has_it():
    found = peak_memory(arm_cost([benchmark(10.0, regime="fixed_length/batch_8")]))
    assert found is not None
    assert found["regime"] == "fixed_length/batch_8"
