"""Energy counters on a made-up /sys and a made-up driver: known joules come out, or words."""

import os
import sys
import types

import pytest
from test_timing import Clock, NoMemory

from limbeck.benchmark import energy as module
from limbeck.benchmark.energy import Energy
from limbeck.benchmark.timing import Drawn, measure, quantities

linux = pytest.mark.skipif(sys.platform != "linux", reason="RAPL is Linux's")


@pytest.fixture
def powercap(tmp_path, monkeypatch):
    """Two packages with DRAM, and what must not be counted twice: platform, core, mmio."""
    folder = tmp_path / "powercap"
    zones = {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:1:0": "dram",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }
    for zone, name in zones.items():
        (folder / zone).mkdir(parents=True)
        (folder / zone / "name").write_text(f"{name}\n")
        (folder / zone / "max_energy_range_uj").write_text("1000000000\n")
        (folder / zone / "energy_uj").write_text("999000000\n")
    (folder / "intel-rapl").mkdir()  # the control type itself, which is no zone
    monkeypatch.setattr(module, "POWERCAP", folder)
    return folder


def draw(powercap, zone, microjoules):
    path = powercap / zone / "energy_uj"
    new = path.with_name("new")
    new.write_text(str((int(path.read_text()) + microjoules) % 1_000_000_000))
    new.replace(path)  # at once, as a counter is read


@linux
def test_packages_and_their_memory_are_counted_once_and_say_what_they_cover(powercap):
    meter = Energy("cpu")
    meter.start()
    for zone in ("intel-rapl:0", "intel-rapl:1"):
        draw(powercap, zone, 500_000)
    draw(powercap, "intel-rapl:0:1", 250_000)
    for zone in ("intel-rapl:0:0", "intel-rapl:2", "intel-rapl-mmio:0"):
        draw(powercap, zone, 77_000_000)
    found = {one.name: one for one in meter.stop()}
    assert {name: one.joules for name, one in found.items()} == pytest.approx(
        {"cpu": 1.0, "memory": 0.25}
    )
    assert "2 CPU packages" in found["cpu"].covers
    assert "idle power included" in found["cpu"].covers
    assert meter.describe() == {"covers": [one.covers for one in found.values()], "absent": []}


@linux
def test_a_counter_that_starts_again_from_0_is_understood_also_within_a_window(
    powercap, monkeypatch
):
    monkeypatch.setattr(module, "POLLING_SECONDS", 0.01)
    meter = Energy("cpu")
    meter.start()
    for _ in range(4):  # 2.4 full turns together
        draw(powercap, "intel-rapl:0", 600_000_000)
        meter.counters[0].joules()
    found = {one.name: one.joules for one in meter.stop()}
    assert found["cpu"] == pytest.approx(2400)


@linux
def test_the_next_window_begins_at_0(powercap):
    meter = Energy("cpu")
    for microjoules in (3_000_000, 1_000_000):
        meter.start()
        draw(powercap, "intel-rapl:0", microjoules)
        [package, _] = meter.stop()
        assert package.joules == pytest.approx(microjoules / 1e6)
        draw(powercap, "intel-rapl:0", 50_000_000)  # between the windows


@linux
def test_where_nothing_can_be_read_there_are_words_and_no_number(tmp_path, powercap, monkeypatch):
    monkeypatch.setattr(module, "POWERCAP", tmp_path / "none")
    meter = Energy("cpu")
    assert meter.counters == []
    assert "no RAPL counter" in meter.absent[0]
    monkeypatch.setattr(module, "POWERCAP", powercap)

    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(module, "_number", refused)
    meter = Energy("cpu")
    assert meter.counters == []
    assert len(meter.absent) == 2
    assert "root only" in meter.absent[0]
    assert str(powercap / "intel-rapl:0") in meter.absent[0]


@linux
@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_counter_for_root_only_is_not_read(powercap):
    (powercap / "intel-rapl:0" / "energy_uj").chmod(0)
    assert "root only" in Energy("cpu").absent[0]


def test_macos_is_told_politely(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    meter = Energy("mps")
    assert meter.counters == []
    assert "powermetrics" in meter.absent[0]


class FakeNvml(types.ModuleType):
    class NVMLError(Exception): ...

    def __init__(self):
        super().__init__("pynvml")
        self.millijoules = 5_000

    def nvmlInit(self): ...

    def nvmlDeviceGetHandleByUUID(self, name):
        if name != "GPU-abc":
            raise self.NVMLError("Not Found")
        return name

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):
        return self.millijoules


def test_a_board_counts_its_own_energy(monkeypatch):
    nvml = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    monkeypatch.setattr(module, "_board", lambda device: "GPU-abc")
    meter = Energy("cuda:1")
    meter.start()
    nvml.millijoules += 42_000
    board = meter.stop()[-1]
    assert (board.name, board.joules) == ("gpu", pytest.approx(42))
    assert "NVML" in board.covers


def test_a_board_that_does_not_tell_and_a_missing_package_are_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    monkeypatch.setattr(module, "_board", lambda device: "GPU-of-another-machine")
    assert "Not Found" in Energy("cuda").absent[-1]
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert "limbeck[energy]" in Energy("cuda").absent[-1]
    assert not any("GPU" in text for text in Energy("cpu").absent)


def test_joules_are_divided_by_the_counted_samples_and_tokens_without_the_warm_up():
    clock, drawn = Clock(), []

    class Meter:
        def start(self):
            drawn.clear()

        def stop(self):
            return [Drawn("cpu", "the whole CPU", sum(drawn))]

    def generate(batch, on_first_token):
        drawn.append(3.0)
        clock.now += 0.1
        on_first_token()
        clock.now += 0.1
        return 4 * len(batch)

    window = measure(
        generate,
        [["a", "b"]],
        prepare=list,
        memory=NoMemory(),
        repeats=5,
        warmup=3,
        energy=Meter(),
        clock=clock,
    )
    found = {one["name"]: one for one in quantities("fixed_length/batch_2", window)}
    assert found["cpu_joules_per_sample"]["value"] == pytest.approx(1.5)
    assert found["cpu_joules_per_token"]["value"] == pytest.approx(3 / 8)
    assert found["cpu_joules_per_token"]["unit"] == "J/token"
    assert found["cpu_joules_per_token"]["covers"] == "the whole CPU"
    assert found["cpu_joules_per_token"]["n"] == 5
