"""The whole stage on a tiny model of real classes, each measurement in a process of its own."""

import json
import os
import subprocess
import sys

import pytest
from PIL import Image

from limbeck.benchmark import stage
from limbeck.benchmark.stage import benchmark_model, failure
from limbeck.data.samples import write_samples
from limbeck.errors import (
    DataError,
    LimbeckError,
    MemoryExhaustedError,
    NonFiniteError,
    UsageError,
)
from limbeck.recipe.sections import Benchmark, Build, ModelSection
from limbeck.records import ImageFile, Sample

SETTINGS = Benchmark(
    batch_sizes=(2, 1), new_tokens=6, max_new_tokens=8, samples=3, repeats=2, warmup=1, threads=1
)
TIMED = ["natural_length/batch_1", "fixed_length/batch_1", "fixed_length/batch_2"]
REGIMES = ["load", *TIMED, "phases/batch_1", "phases/batch_2", "cold_start"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two samples with a picture, one of text alone, and one that belongs to another split."""
    folder = tmp_path_factory.mktemp("data")
    Image.new("RGB", (96, 64), "red").save(folder / "red.png")
    picture = ImageFile("red.png", "", 96, 64)
    text = {"type": "text", "text": "describe the screen"}
    seen = ({"role": "user", "content": [{"type": "image"}, text]},)
    unseen = ({"role": "user", "content": [text]},)
    write_samples(
        folder,
        [
            Sample("a", "test", seen, (picture,), ("a red screen",)),
            Sample("b", "test", seen, (picture,), ("a red screen",)),
            Sample("c", "test", unseen, (), ("a screen",)),
            Sample("d", "train", seen, (picture,), ("a red screen",)),
        ],
    )
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from limbeck.models.build import build_model

    build = Build(family="qwen2_vl", hidden_size=512, layers=2, intermediate_size=3072)
    folder = tmp_path_factory.mktemp("model")
    summary = build_model(build, ["describe the screen", "a red screen"], 0, folder)
    return ModelSection(model=str(folder)), summary


@pytest.fixture(scope="module")
def measured(data, model, tmp_path_factory):
    """Results, measured from a current folder that has a torch of its own."""
    current, output = tmp_path_factory.mktemp("current"), tmp_path_factory.mktemp("output")
    (current / "torch.py").write_text("raise SystemExit('imported from the current folder')")
    before = os.getcwd()
    os.chdir(current)
    try:
        summary = benchmark_model(model[0], SETTINGS, data, output, device="cpu")
    finally:
        os.chdir(before)
    return output, summary, json.loads((output / "results.json").read_text())


def by_name(results, regime):
    return {one["name"]: one for one in results["measurements"] if one["regime"] == regime}


def test_every_regime_has_every_quantity_with_n_unit_and_spread(measured):
    results = measured[2]
    assert list(dict.fromkeys(one["regime"] for one in results["measurements"])) == REGIMES
    assert set(by_name(results, "load")) == {
        "load_seconds",
        "runtime_memory_mib",
        "model_memory_mib",
        "weights_mib",
    }
    counts = dict(zip(TIMED, (6, 6, 4), strict=True))  # 2 passes over 3 samples
    for regime, count in counts.items():
        found = by_name(results, regime)
        assert set(found) >= {
            "latency_ms",
            "latency_p95_ms",
            "time_to_first_token_ms",
            "preprocess_ms",
            "decode_tokens_per_second",
            "throughput_samples_per_second",
            "throughput_tokens_per_second",
            "new_tokens_mean",
            "peak_memory_mib",
            "model_peak_memory_mib",
        }
        assert {one["n"] for one in found.values()} == {count}
        assert all(one["value"] > 0 and one["unit"] for one in found.values())
        latency = found["latency_ms"]
        assert latency["spread"] == "p5-p95"
        assert latency["low"] <= latency["value"] <= latency["high"]


def test_the_numbers_of_a_regime_fit_one_another(measured):
    for regime, batch in (("fixed_length/batch_1", 1), ("fixed_length/batch_2", 2)):
        found = {name: one["value"] for name, one in by_name(measured[2], regime).items()}
        assert found["new_tokens_mean"] == SETTINGS.new_tokens
        tokens, samples = (found[f"throughput_{n}_per_second"] for n in ("tokens", "samples"))
        assert tokens == pytest.approx(samples * SETTINGS.new_tokens)
        assert found["time_to_first_token_ms"] < found["latency_ms"] <= found["latency_p95_ms"]
        mean_seconds = batch / samples
        decoded = batch * (SETTINGS.new_tokens - 1)
        assert 0.05 < decoded / found["decode_tokens_per_second"] / mean_seconds < 1
    natural = by_name(measured[2], "natural_length/batch_1")["new_tokens_mean"]["value"]
    assert 1 <= natural <= SETTINGS.max_new_tokens


def test_the_phases_add_up_to_the_time_to_the_first_token(measured):
    assert measured[2]["without_phases"] is None
    for batch, count in ((1, 6), (2, 4)):
        found = by_name(measured[2], f"phases/batch_{batch}")
        names = {"pictures_ms", "processor_ms", "input_ms", "vision_ms", "prefill_ms"}
        assert set(found) == names
        assert {one["n"] for one in found.values()} == {count}
        assert all(one["value"] >= 0 for one in found.values())
        assert found["vision_ms"]["high"] > 0
        assert found["pictures_ms"]["high"] > 0
        whole = sum(found[name]["value"] for name in ("input_ms", "vision_ms", "prefill_ms"))
        first = by_name(measured[2], f"fixed_length/batch_{batch}")["time_to_first_token_ms"]
        assert first["low"] / 3 < whole < first["high"] * 3


def test_the_first_start_is_told_apart_and_says_what_cold_means(measured):
    found = by_name(measured[2], "cold_start")
    assert set(found) == {
        "import_seconds",
        "load_seconds",
        "preprocess_ms",
        "time_to_first_token_ms",
        "latency_ms",
    }
    assert {one["n"] for one in found.values()} == {1}
    assert all(one["value"] > 0 and one["spread"] is None for one in found.values())
    assert found["import_seconds"]["value"] > 0.1, "torch is not imported before the clock runs"
    warm = by_name(measured[2], "load")["load_seconds"]["value"]
    assert found["load_seconds"]["value"] > warm, "lazy imports belong to the first loading"
    assert "page" not in measured[2]["page_cache"]["state"]
    assert measured[2]["page_cache"]["state"]


def test_energy_that_is_not_told_is_said_in_words_and_has_no_number(measured):
    energy = measured[2]["energy"]
    names = {one["name"] for one in measured[2]["measurements"] if "joules" in one["name"]}
    assert bool(names) == bool(energy["covers"])
    assert energy["covers"] or "CPU" in energy["absent"][0]


def test_memory_is_attributed_to_the_model_and_names_its_kind(measured):
    results = measured[2]
    load = {name: one["value"] for name, one in by_name(results, "load").items()}
    assert load["weights_mib"] == pytest.approx(results["parameters"] * 4 / 2**20, rel=0.02)
    assert load["weights_mib"] > 40
    assert load["model_memory_mib"] == pytest.approx(load["weights_mib"], rel=0.1)
    assert results["memory_kind"] == "process RSS"
    assert results["memory_method"]
    for regime in TIMED:
        found = by_name(results, regime)
        assert found["peak_memory_mib"]["memory_kind"] == "process RSS"
        above = found["peak_memory_mib"]["value"] - load["runtime_memory_mib"]
        assert found["model_peak_memory_mib"]["value"] == pytest.approx(above)
        assert load["weights_mib"] * 0.9 < above < load["weights_mib"] + 40


def test_the_artefact_and_the_machine_are_described_by_counting(measured, model):
    results = measured[2]
    section, built = model
    assert results["parameters"] == built["parameters"]
    assert results["disk_bytes"] > results["parameters"] * 4
    assert results["disk_bytes"] == sum(
        os.path.getsize(os.path.join(section.model, name)) for name in os.listdir(section.model)
    )
    assert results["precision"] == "float32"
    assert "transformers" in results["runtime"]
    assert "attention sdpa" in results["runtime"]
    assert results["machine"]["threads"] == 1
    assert results["samples"] == 3
    assert results["visual_tokens_mean"] == pytest.approx(2 * 6 / 3)  # 3 x 2 merged patches
    assert results["prompt_tokens_mean"] > results["visual_tokens_mean"]
    assert results["settings"] == SETTINGS.here()
    assert not {"models", "served", "servers", "concurrency"} & set(results["settings"])


def test_a_finished_measurement_is_not_repeated_and_leaves_nothing_else(
    measured, model, data, monkeypatch
):
    output, summary, _ = measured
    assert os.listdir(output) == ["results.json"]
    monkeypatch.setattr(stage, "_in_own_process", None)
    assert benchmark_model(model[0], SETTINGS, data, output, device="cpu") == summary
    assert summary["measurements"]["natural_length/batch_1/latency_ms"] > 0


def test_the_workers_error_comes_out_as_our_own(tmp_path, data):
    section = ModelSection(model=str(tmp_path / "no_such_model"))
    with pytest.raises(UsageError, match="no_such_model"):
        benchmark_model(section, SETTINGS, data, tmp_path / "output", device="cpu")
    assert not (tmp_path / "output" / "results.json").exists()


def test_an_empty_split_is_refused_before_a_model_is_loaded(tmp_path, data, monkeypatch):
    monkeypatch.setattr(stage, "_in_own_process", None)
    settings = Benchmark(split="nowhere")
    with pytest.raises(DataError, match="nowhere"):
        benchmark_model(ModelSection(model="m"), settings, data, tmp_path, device="cpu")


def test_a_worker_that_dies_is_an_error_with_the_right_exit_code(tmp_path):
    log = tmp_path / "worker.log"
    log.write_text("Traceback\nZeroDivisionError: division by zero\n\n")
    told = failure(5, {"what": "not finite", "where": None, "mend": None}, log)
    assert isinstance(told, NonFiniteError)
    killed = failure(-9, None, log)
    assert isinstance(killed, MemoryExhaustedError)
    assert killed.exit_code == 6
    crashed = failure(1, None, log)
    assert type(crashed) is LimbeckError
    assert "division by zero" in str(crashed)
    assert str(log) in str(crashed)


def test_the_worker_ends_when_the_process_that_started_it_is_gone(tmp_path):
    pipe = tmp_path / "spec.json"
    os.mkfifo(pipe)  # opening it blocks for ever, like a long measurement
    command = [sys.executable, "-m", "limbeck.benchmark.worker", str(pipe)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.stdin.close()
        assert process.wait(20) == 1
