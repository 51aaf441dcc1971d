import os
import subprocess
import sys
import time

import psutil
import pytest

from limbeck.benchmark import machine as module
from limbeck.benchmark.machine import OtherWork, machine


def test_the_description_is_the_same_every_time_and_complete():
    first = machine("cpu")
    assert list(first) == ["cpu", "cores", "threads", "memory_gib", "device", "platform"]
    assert first == machine("cpu")
    assert all(first.values())


def test_threads_are_those_asked_for(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert machine("cpu")["threads"] == 3
    assert machine("cpu", threads=5)["threads"] == 5
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    assert 1 <= machine("cpu")["threads"] <= machine("cpu")["cores"]


def test_a_containers_limits_are_the_machine(monkeypatch):
    limits = {"cpu.max": ["100000", "100000"], "memory.max": [str(2**30)]}
    monkeypatch.setattr(module, "_cgroup_values", limits.__getitem__)
    assert machine("cpu")["cores"] == 1
    assert machine("cpu")["memory_gib"] == 1.0


def test_an_unlimited_container_has_the_whole_machine(monkeypatch):
    limits = {"cpu.max": ["max", "100000"], "memory.max": ["max"]}
    monkeypatch.setattr(module, "_cgroup_values", limits.__getitem__)
    total = psutil.virtual_memory().total
    assert machine("cpu")["memory_gib"] == pytest.approx(total / 2**30, abs=0.06)
    assert machine("cpu")["cores"] <= (os.cpu_count() or 1)


def test_no_name_of_the_host_or_the_user_is_in_it():
    text = str(machine("cpu"))
    assert os.uname().nodename not in text or len(os.uname().nodename) < 4


def test_the_work_of_others_is_seen_and_ones_own_is_not():
    code = "import time; end = time.monotonic() + 20\nwhile time.monotonic() < end: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as busy:
        time.sleep(0.2)
        other = OtherWork()
        time.sleep(0.5)
        beside_a_busy_process = other.cores()
        busy.kill()
    assert beside_a_busy_process > 0.3
    before, own = OtherWork._now(), OtherWork()
    while time.monotonic() < before[2] + 0.3:
        pass
    after = OtherWork._now()
    alone = after[0] - before[0] - (after[1] - before[1])
    assert own.cores() == pytest.approx(max(0, alone) / (after[2] - before[2]), abs=0.25)
    assert after[1] - before[1] > 0.05
