import subprocess
import sys
import time

import pytest

from limbeck.benchmark import memory
from limbeck.benchmark.memory import (
    PEAK,
    SAMPLING_SECONDS,
    ResettableProcessMemory,
    SampledProcessMemory,
    gauge,
    peak_can_be_reset,
)

MIB = 2**20

resettable = pytest.mark.skipif(
    not peak_can_be_reset(), reason="this kernel does not let a process reset its peak"
)


@pytest.mark.parametrize(
    "make", [SampledProcessMemory, pytest.param(ResettableProcessMemory, marks=resettable)]
)
def test_a_peak_belongs_to_the_window_since_the_last_reset(make):
    gauge = make()
    gauge.settle()
    before = gauge.current_bytes()
    larger = bytearray(b"\1") * (150 * MIB)
    del larger
    gauge.settle()
    gauge.reset_peak()
    for _ in range(3):
        held = bytearray(b"\1") * (50 * MIB)
        time.sleep(10 * SAMPLING_SECONDS)  # a shorter peak may be missed by sampling
        del held
    [peak] = gauge.peaks()
    assert (peak.name, peak.kind) == (PEAK, "process RSS")
    assert (peak.bytes - before) / MIB == pytest.approx(50, rel=0.2)
    gauge.reset_peak()
    [peak] = gauge.peaks()  # also ends the sampling thread
    assert (peak.bytes - before) / MIB == pytest.approx(0, abs=8)


@pytest.mark.skipif(sys.platform != "linux", reason="other C libraries have no malloc_trim")
def test_freed_memory_is_given_back_before_it_is_counted():
    gauge = SampledProcessMemory()
    gauge.settle()
    before = gauge.current_bytes()
    many = [bytes(1000) for _ in range(100_000)]
    assert gauge.current_bytes() - before > 80 * MIB
    last = many.pop()  # at the heap's end, so that the C library keeps all that is before it
    many.clear()
    assert gauge.current_bytes() - before > 80 * MIB
    gauge.settle()
    assert last
    assert gauge.current_bytes() - before < 20 * MIB


def test_the_kernels_peak_is_taken_only_where_resetting_it_works(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "missing" / "clear_refs")
    assert isinstance(gauge("cpu"), SampledProcessMemory)
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "accepts_and_ignores")
    assert isinstance(gauge("cpu"), SampledProcessMemory)


def test_each_gauge_names_its_kind_and_its_method():
    assert gauge("cpu").kind == "process RSS"
    assert gauge("cuda:0").kind == "CUDA allocated"
    assert "sampled every 5 ms" in SampledProcessMemory().method
    assert "VmHWM" in ResettableProcessMemory.method


def test_measuring_the_machine_and_its_memory_needs_no_torch():
    code = (
        "import sys; from limbeck.benchmark.machine import machine;"
        "from limbeck.benchmark.memory import gauge; from limbeck.benchmark import stage, timing;"
        "machine('cpu'); machine('cuda'); gauge('cpu').current_bytes();"
        "heavy = {'torch', 'transformers', 'pyarrow', 'datasets'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
