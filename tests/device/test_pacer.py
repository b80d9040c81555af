"""The pacer: a step lasts what the truth says at the clock that is set, also when that changes on the way."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from powerflow.cost.model import gpu_power, step_time
from powerflow.device.emulated import pacer as pacer_module
from powerflow.device.emulated.gpu import EmulatedGpu
from powerflow.device.emulated.pacer import Pacer, emulate_rank, pacer_from_environment
from powerflow.errors import InputError
from tests.device.cards import a_job, emulated_gpus

TRUTH = a_job()


class FakeTime:
    """Time that passes only when somebody sleeps, and what happens meanwhile."""

    def __init__(self) -> None:
        self.now_s = time.monotonic()
        self.events: list[tuple[float, EmulatedGpu, float]] = []
        self.overshoot_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def clock_gettime(self, which: int) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self._to(self.now_s + seconds + self.overshoot_s)

    def _to(self, until_s: float) -> None:
        for at_s, gpu, clock_mhz in sorted((e for e in self.events if e[0] <= until_s), key=lambda e: e[0]):
            self.now_s = max(self.now_s, at_s)
            gpu.lock_clock(clock_mhz)
        self.events = [event for event in self.events if event[0] > until_s]
        self.now_s = until_s


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr(pacer_module, "time", clock)
    monkeypatch.setattr("powerflow.device.emulated.gpu.time", clock)
    return clock


def true_step_s(clock_mhz: float, gpus: int = 1, nodes: int = 1, local_batch: int = 64, accumulation: int = 1) -> float:
    return float(step_time(TRUTH.throughput, gpus, local_batch, accumulation, clock_mhz, nodes > 1))


def true_watts(clock_mhz: float) -> float:
    return float(gpu_power(TRUTH.throughput, TRUTH.power, 1, 64, 1, clock_mhz, False))


def one_step(pacer: Pacer, fake: FakeTime, computing_s: float = 0.0, gpus: int = 1, nodes: int = 1) -> float:
    began_s = fake.now_s
    fake.sleep(computing_s)
    pacer.pace(gpus=gpus, nodes=nodes, local_batch=64, accumulation=1, began_s=began_s)
    return fake.now_s - began_s


@pytest.mark.parametrize(("gpus", "nodes", "clock"), [(1, 1, 1410.0), (1, 1, 705.0), (4, 1, 1005.0), (8, 2, 1005.0)])
def test_a_step_lasts_what_the_truth_says(tmp_path: Path, fake: FakeTime, gpus: int, nodes: int, clock: float) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    gpu.lock_clock(clock)
    pacer = Pacer(TRUTH, [gpu], time_scale=0.5)
    pacer.begin()
    assert one_step(pacer, fake, 0.01, gpus, nodes) == pytest.approx(0.5 * true_step_s(clock, gpus, nodes), abs=1e-9)
    assert (pacer.steps, pacer.overruns) == (1, 0)


def test_a_step_that_really_takes_longer_is_not_slept_for_and_counted(tmp_path: Path, fake: FakeTime) -> None:
    pacer = Pacer(TRUTH, emulated_gpus(tmp_path)[:1])
    too_long_s = true_step_s(1410) + 0.25
    assert one_step(pacer, fake, too_long_s) == pytest.approx(too_long_s)
    assert (pacer.steps, pacer.overruns) == (1, 1)
    assert pacer.overrun_s == pytest.approx(0.25)


@pytest.mark.parametrize("computing", [0.0, 0.6])
def test_a_clock_that_changes_in_mid_step_is_honoured(tmp_path: Path, fake: FakeTime, computing: float) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    pacer = Pacer(TRUTH, [gpu])
    fast_s, slow_s = true_step_s(1410), true_step_s(705)
    assert slow_s > 1.3 * fast_s
    # after a quarter of the fast step: while it computes, or while it sleeps
    fake.events.append((fake.now_s + 0.25 * fast_s, gpu, 705.0))
    lasted_s = one_step(pacer, fake, computing * fast_s)
    assert lasted_s == pytest.approx(0.25 * fast_s + 0.75 * slow_s, rel=1e-9)
    assert gpu.read().power_w == pytest.approx(true_watts(705))


def test_the_slowest_of_several_gpus_sets_the_pace(tmp_path: Path, fake: FakeTime) -> None:
    gpus = emulated_gpus(tmp_path)
    gpus[1].lock_clock(705)
    assert one_step(Pacer(TRUTH, gpus), fake) == pytest.approx(true_step_s(705))


def test_what_a_sleep_overshoots_the_next_steps_make_good(tmp_path: Path, fake: FakeTime) -> None:
    pacer = Pacer(TRUTH, emulated_gpus(tmp_path)[:1])
    fake.overshoot_s = 0.003
    began_s = fake.now_s
    for _ in range(50):
        pacer.pace(gpus=1, nodes=1, local_batch=64, accumulation=1, began_s=fake.now_s)
    assert fake.now_s - began_s == pytest.approx(50 * true_step_s(1410), abs=0.01)


def test_joules_are_the_truths_watts_times_the_time_from_the_first_step_on(tmp_path: Path, fake: FakeTime) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    pacer = Pacer(TRUTH, [gpu])
    pacer.begin()
    assert gpu.read().power_w == gpu.idle_w
    before = gpu.read()
    for _ in range(3):
        one_step(pacer, fake, 0.01)
    after = gpu.read()
    seconds = after.time_s - before.time_s
    assert after.energy_j - before.energy_j == pytest.approx(true_watts(1410) * seconds, rel=1e-9)
    pacer.idle()
    assert gpu.read().power_w == gpu.idle_w


def test_the_gpus_counters_show_the_same_work_of_each_step_at_each_clock(tmp_path: Path, fake: FakeTime) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    pacer = Pacer(TRUTH, [gpu])
    per_step = []
    for clock_mhz in (1410.0, 1005.0, 705.0):
        gpu.lock_clock(clock_mhz)
        one_step(pacer, fake)
        before = gpu.read()
        for _ in range(4):
            one_step(pacer, fake)
        after = gpu.read()
        assert after.activity is not None
        seconds = after.time_s - before.time_s
        per_step.append((after.activity.tensor * clock_mhz * seconds / 4, after.activity.dram * seconds / 4))
    assert per_step[0][0] > 0.0 < per_step[0][1]
    assert per_step[1:] == [pytest.approx(per_step[0], rel=1e-6)] * 2


def test_the_pacer_comes_from_the_environment(tmp_path: Path, fake: FakeTime) -> None:
    gpus = emulated_gpus(tmp_path / "gpus")
    env = emulate_rank(tmp_path / "rank.json", TRUTH, gpus[1:], time_scale=0.25)
    pacer = pacer_from_environment(env)
    assert pacer is not None
    assert one_step(pacer, fake) == pytest.approx(0.25 * true_step_s(1410))
    assert gpus[1].state().load_pid == os.getpid()
    assert gpus[0].state().load_pid == 0
    assert pacer_from_environment({}) is None


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "rank.json").write_text("{}")
    with pytest.raises(InputError, match="not written by this version"):
        pacer_from_environment({"POWERFLOW_EMULATED": str(tmp_path / "rank.json")})
    for gpus, scale in (([], 1.0), (emulated_gpus(tmp_path), 0.0)):
        with pytest.raises(InputError):
            emulate_rank(tmp_path / "r.json", TRUTH, gpus, time_scale=scale)


_RANK = """
import os, sys, time
from powerflow.device.emulated.pacer import pacer_from_environment
pacer = pacer_from_environment()
pacer.begin()
print("began", flush=True)
for step in range(int(sys.argv[1])):
    began_s = time.monotonic()
    pacer.pace(gpus=1, nodes=1, local_batch=64, accumulation=1, began_s=began_s)
print(pacer.steps, flush=True)
sys.stdin.readline()
"""


def test_a_real_process_keeps_pace_on_a_clock_that_is_set_from_outside(tmp_path: Path) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    scale = 0.02 / true_step_s(1410)  # 20 ms a step at the maximum clock
    gpu.lock_clock(705)
    env = os.environ | emulate_rank(tmp_path / "rank.json", TRUTH, [gpu], time_scale=scale)
    command = [sys.executable, "-c", _RANK, "50"]
    rank = subprocess.Popen(command, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert rank.stdin is not None
        assert rank.stdout is not None
        assert rank.stdout.readline() == b"began\n"
        began_s = time.monotonic()
        assert rank.stdout.readline() == b"50\n"
        # the machine may be busy, so only from below: it cannot have been faster than the truth at 705 MHz
        assert time.monotonic() - began_s > 0.95 * 50 * scale * true_step_s(705)
        assert gpu.read().power_w == pytest.approx(true_watts(705))
        rank.stdin.close()
        assert rank.wait(60) == 0
        assert gpu.read().power_w == gpu.idle_w
    finally:
        rank.kill()
        rank.wait()
        assert rank.stdout is not None
        rank.stdout.close()


def test_pace_computes_little(tmp_path: Path) -> None:
    """Processor time, not the clock's: 17 µs where it was written, and 1 ms is far above what any machine needs."""
    pacer = Pacer(TRUTH, emulated_gpus(tmp_path)[:1], time_scale=1e-9)
    began_s = time.process_time()
    for _ in range(300):
        pacer.pace(gpus=1, nodes=1, local_batch=64, accumulation=1, began_s=time.monotonic())
    assert (time.process_time() - began_s) / 300 < 1e-3


def test_a_thread_that_changes_the_clock_does_not_disturb(tmp_path: Path) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    pacer = Pacer(TRUTH, [gpu], time_scale=0.005 / true_step_s(1410))
    ended = threading.Event()

    def change() -> None:
        while not ended.is_set():
            for clock in (705.0, 1410.0, 1005.0):
                gpu.lock_clock(clock)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(40):
            pacer.pace(gpus=1, nodes=1, local_batch=64, accumulation=1, began_s=time.monotonic())
    finally:
        ended.set()
        thread.join()
    assert pacer.steps == 40
    assert gpu.read().locked_mhz in {705.0, 1410.0, 1005.0}
