"""Phases of models whose parts have known cost, by an exact fake clock and by the real one."""

import time

import pytest

from limbeck.benchmark.phases import (
    LANGUAGE,
    PICTURES,
    VISION,
    Stopwatch,
    measure_phases,
    phase_quantities,
)
from limbeck.errors import UsageError


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Model:
    """Costs what `KNOWN` says; the vision tower runs 15 ms and its projector 5."""

    def __init__(self, watch, sleep, cold_calls=0):
        self.watch, self.sleep, self.cold_calls = watch, sleep, cold_calls

    def prepare(self, batch):
        for _ in batch:  # one picture after the other
            self.watch.begin(PICTURES)
            self.sleep(0.004 / len(batch))
            self.watch.end(PICTURES)
        self.sleep(0.003)
        return batch

    def generate(self, batch, on_first_token):
        self.cold_calls -= 1
        if self.cold_calls >= 0:
            self.sleep(1.0)
        self.sleep(0.002)
        for seconds in (0.015, 0.005):
            self.watch.begin(VISION)
            self.sleep(seconds)
            self.watch.end(VISION)
        self.watch.begin(LANGUAGE)
        self.sleep(0.030)
        on_first_token()
        self.sleep(0.5)  # whatever comes after the token is no phase of it
        return len(batch)


def measured(model, batches, repeats, warmup):
    found = measure_phases(
        model.generate,
        batches,
        prepare=model.prepare,
        watch=model.watch,
        repeats=repeats,
        warmup=warmup,
    )
    return {one["name"]: one for one in phase_quantities("phases/batch_2", found)}


KNOWN = {"pictures_ms": 4, "processor_ms": 3, "input_ms": 2, "vision_ms": 20, "prefill_ms": 30}


def test_every_phase_of_a_known_model_is_exact_and_the_warm_up_excluded():
    clock = Clock()
    model = Model(Stopwatch(clock=clock), clock.sleep, cold_calls=2)
    found = measured(model, [["a", "b"], ["c", "d"]], repeats=3, warmup=2)
    assert {name: one["value"] for name, one in found.items()} == pytest.approx(KNOWN)
    assert {name: one["high"] for name, one in found.items()} == pytest.approx(KNOWN)
    assert {one["n"] for one in found.values()} == {6}
    assert {one["spread"] for one in found.values()} == {"p5-p95"}


def test_the_phases_of_a_real_model_are_measured_within_a_tenth_over_30_runs():
    model = Model(Stopwatch(), time.sleep)
    model.generate = _without_the_rest(model)
    found = measured(model, [["a"]], repeats=30, warmup=2)
    for name, expected in KNOWN.items():
        assert found[name]["value"] == pytest.approx(expected, rel=0.1, abs=0.6), name


def _without_the_rest(model):
    class NoMoreError(Exception): ...

    def generate(batch, on_first_token):
        def token():
            on_first_token()
            raise NoMoreError

        try:
            return Model.generate(model, batch, token)
        except NoMoreError:
            return len(batch)

    return generate


def test_the_device_is_waited_for_at_every_boundary():
    clock, pending = Clock(), []

    def synchronise():
        clock.now += sum(pending)
        pending.clear()

    model = Model(Stopwatch(synchronise, clock), pending.append)  # queued, not done
    found = measured(model, [["a"]], repeats=1, warmup=0)
    assert {name: one["value"] for name, one in found.items()} == pytest.approx(KNOWN)


def test_text_alone_has_no_time_for_pictures():
    clock = Clock()
    watch = Stopwatch(clock=clock)

    def generate(batch, on_first_token):
        watch.begin(LANGUAGE)
        clock.sleep(0.01)
        on_first_token()
        return 1

    [found] = measure_phases(generate, [["a"]], prepare=list, watch=watch, repeats=1, warmup=0)
    assert (found.pictures, found.vision) == (0, 0)
    assert found.prefill == pytest.approx(0.01)


def test_a_model_that_does_not_tell_is_an_error_and_no_number():
    def generate(batch, on_first_token):
        on_first_token()
        return 1

    with pytest.raises(UsageError, match="was not seen"):
        measure_phases(generate, [["a"]], prepare=list, watch=Stopwatch(), repeats=1, warmup=0)
