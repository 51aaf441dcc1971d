"""The timing core on models of known cost, by an exact fake clock and by the real one."""

import time

import pytest

from limbeck.benchmark.memory import gauge
from limbeck.benchmark.timing import Peak, measure, percentile, quantities

MIB = 2**20


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class NoMemory:
    kind, method = "none", "none"

    def settle(self): ...

    def reset_peak(self): ...

    def current_bytes(self):
        return 0

    def peaks(self):
        return []


class Model:
    """Costs 20 ms to the first token, 10 ms a further one; the first two calls 100 times that."""

    def __init__(self, clock, tokens=4, cold_calls=2):
        self.clock, self.tokens, self.cold_calls, self.calls = clock, tokens, cold_calls, 0

    def prepare(self, batch):
        self.clock.now += 0.003 * len(batch)
        return batch

    def generate(self, batch, on_first_token):
        self.calls += 1
        slow = 100 if self.calls <= self.cold_calls else 1
        self.clock.now += 0.020 * slow
        for step in range(self.tokens):
            if step:
                self.clock.now += 0.010 * slow
            on_first_token()  # only the first call counts
        return self.tokens * len(batch)


def run(model, batches, **options):
    settings = {"repeats": 3, "warmup": 2, "memory": NoMemory(), "clock": model.clock, **options}
    window = measure(model.generate, batches, prepare=model.prepare, **settings)
    return window, {one["name"]: one for one in quantities("fixed_length/batch_1", window)}


def test_every_quantity_of_a_known_model_is_exact():
    window, found = run(Model(Clock()), [["a", "b"], ["c", "d"]])
    assert len(window.calls) == 6
    expected = {
        "latency_ms": 50,
        "latency_p95_ms": 50,
        "time_to_first_token_ms": 20,
        "preprocess_ms": 6,
        "decode_tokens_per_second": 2 * 3 / 0.030,
        "throughput_samples_per_second": 2 / 0.050,
        "throughput_tokens_per_second": 2 * 4 / 0.050,
        "new_tokens_mean": 4,
    }
    assert {name: one["value"] for name, one in found.items()} == pytest.approx(expected)
    assert {one["n"] for one in found.values()} == {6}
    assert found["latency_ms"]["spread"] == "p5-p95"
    assert found["latency_ms"]["low"] == pytest.approx(50)


def test_warm_up_is_excluded():
    cold = run(Model(Clock()), [["a"]], warmup=1)[1]["latency_p95_ms"]["value"]
    warm = run(Model(Clock()), [["a"]], warmup=2)[1]["latency_p95_ms"]["value"]
    assert warm == pytest.approx(50)
    assert cold > 1000


def test_one_token_answers_have_no_decode_rate():
    _, found = run(Model(Clock(), tokens=1), [["a"]])
    assert "decode_tokens_per_second" not in found
    assert found["latency_ms"]["value"] == pytest.approx(20)


def test_the_device_is_waited_for_before_every_reading_of_the_clock():
    clock, pending = Clock(), []

    def synchronise():
        clock.now += sum(pending)
        pending.clear()

    def generate(batch, on_first_token):
        pending.append(0.020)  # queued, not done
        on_first_token()
        pending.append(0.030)
        return 4

    window = measure(
        generate,
        [["a"]],
        prepare=list,
        memory=NoMemory(),
        repeats=1,
        warmup=0,
        synchronise=synchronise,
        clock=clock,
    )
    assert window.calls[0].first_token_seconds == pytest.approx(0.020)
    assert window.calls[0].total_seconds == pytest.approx(0.050)


def test_rates_are_totals_over_totals_and_latency_is_a_median():
    clock = Clock()
    costs = iter([0.1, 0.1, 1.0])

    def generate(batch, on_first_token):
        clock.now += 0.1
        on_first_token()
        clock.now += next(costs)
        return 11

    window = measure(
        generate,
        [["a"]],
        prepare=list,
        memory=NoMemory(),
        repeats=3,
        warmup=0,
        clock=clock,
    )
    found = {one["name"]: one for one in quantities("natural_length/batch_1", window)}
    assert found["latency_ms"]["value"] == pytest.approx(200)
    assert found["latency_ms"]["high"] == pytest.approx(1010)
    assert found["decode_tokens_per_second"]["value"] == pytest.approx(30 / 1.2)
    assert found["throughput_samples_per_second"]["value"] == pytest.approx(3 / 1.5)


def test_percentile_is_linear_between_neighbours():
    assert percentile([3, 1, 2], 50) == 2
    assert percentile([0, 10], 95) == pytest.approx(9.5)
    assert percentile([7], 5) == 7


def test_the_peak_is_reset_after_the_warm_up_and_read_after_the_last_call():
    events = []

    class Recorder(NoMemory):
        def settle(self):
            events.append("settle")

        def reset_peak(self):
            events.append("reset")

        def peaks(self):
            events.append("read")
            return [Peak("peak_memory_mib", "test memory", 3 * MIB)]

    def generate(batch, on_first_token):
        events.append("generate")
        on_first_token()
        return 1

    window = measure(generate, [["a"]], prepare=list, memory=Recorder(), repeats=2, warmup=1)
    assert events == ["settle", "generate", "reset", "generate", "generate", "read"]
    peak = quantities("load", window)[-1]
    assert (peak["value"], peak["unit"], peak["memory_kind"]) == (3, "MiB", "test memory")


def test_a_real_model_of_50_ms_and_100_mib_is_measured_within_a_tenth():
    memory = gauge("cpu")
    memory.settle()
    before = memory.current_bytes()
    weights = bytearray(b"\1") * (100 * MIB)
    model_bytes = memory.current_bytes() - before
    warm = []

    def generate(batch, on_first_token):
        started = time.perf_counter()
        if len(warm) < 2:  # a warm-up that is slower and larger than what follows
            warm.append(len(bytearray(b"\1") * (300 * MIB)))
            time.sleep(0.2)
        working = bytearray(b"\1") * (20 * MIB)
        time.sleep(max(0, started + 0.020 - time.perf_counter()))
        on_first_token()
        time.sleep(max(0, started + 0.050 - time.perf_counter()))
        return len(working) // MIB

    window = measure(generate, [["a"]], prepare=list, memory=memory, repeats=30, warmup=2)
    found = {one["name"]: one["value"] for one in quantities("fixed_length/batch_1", window)}
    assert len(weights) == 100 * MIB
    assert model_bytes / MIB == pytest.approx(100, rel=0.1)
    assert found["latency_ms"] == pytest.approx(50, rel=0.1)
    assert found["time_to_first_token_ms"] == pytest.approx(20, rel=0.25)
    assert found["peak_memory_mib"] - before / MIB == pytest.approx(120, rel=0.1)
