"""The throttle: a group gets its share of the time, and is never left stopped, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from powerflow.cost.model import gpu_power, phi
from powerflow.device.emulated.throttle import NOTES, Throttle, continue_leftovers
from powerflow.device.emulated.true_cost import model_json, true_activity
from tests.device.cards import a_job, emulated_gpus, end_watchdog, the_watchdog, wait_for

TRUTH = a_job()
_SPIN = "import time\nprint('spins', flush=True)\nwhile True: time.sleep(0.0005)\n"


@pytest.fixture
def script() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", _SPIN], stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "devices"
    yield directory
    end_watchdog(directory)


def stopped(process: subprocess.Popen[bytes]) -> bool:
    return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED


def share_stopped(process: subprocess.Popen[bytes], seconds: float) -> float:
    looks, hits, end_s = 0, 0, time.monotonic() + seconds
    while time.monotonic() < end_s:
        looks, hits = looks + 1, hits + stopped(process)
        time.sleep(0.0007)
    return hits / looks


def never_stopped(process: subprocess.Popen[bytes]) -> bool:
    return share_stopped(process, 0.2) == 0.0


def test_the_share_follows_the_clock(tmp_path: Path, devices: Path, script: subprocess.Popen[bytes]) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    throttle = Throttle(devices, {script.pid: [gpu]}, TRUTH, local_batch=64)
    try:
        wait_for(lambda: gpu.state().load_pid == script.pid, "load")
        assert never_stopped(script), "at the maximum clock nothing is taken away"
        gpu.lock_clock(705)
        wait_for(lambda: stopped(script), "a stop")
        expected = 1.0 - 1.0 / float(phi(TRUTH.throughput, 705.0))
        assert share_stopped(script, 1.5) == pytest.approx(expected, abs=0.2)
        watts = float(gpu_power(TRUTH.throughput, TRUTH.power, 1, 64, 1, 705.0, False))
        assert gpu.read().power_w == pytest.approx(watts)
        activity = gpu.read().activity
        assert activity is not None
        speed = 1.0 - expected
        assert activity.dram == pytest.approx(true_activity(TRUTH, 1, 64, 1, 705.0, 0, speed=speed).dram)
    finally:
        throttle.close()
    assert not throttle.running
    assert never_stopped(script)
    assert gpu.read().power_w == gpu.idle_w
    assert not list((devices / NOTES).iterdir())


def test_all_groups_of_a_job_stand_still_together(tmp_path: Path, devices: Path) -> None:
    gpus = emulated_gpus(tmp_path)
    gpus[1].lock_clock(705)  # the slowest sets the pace of both
    command = [sys.executable, "-c", _SPIN]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) for _ in gpus]
    try:
        throttle = Throttle(
            devices, {rank.pid: [gpu] for rank, gpu in zip(ranks, gpus, strict=True)}, TRUTH, local_batch=64
        )
        try:
            wait_for(lambda: all(stopped(rank) for rank in ranks), "both stopped at once")
            assert [gpu.state().load_pid for gpu in gpus] == [rank.pid for rank in ranks]
            ranks[0].kill()
            ranks[0].wait()
            wait_for(lambda: stopped(ranks[1]), "the other one goes on being slowed")
            assert throttle.running
        finally:
            throttle.close()
        assert never_stopped(ranks[1])
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


def test_it_ends_with_its_group(tmp_path: Path, devices: Path, script: subprocess.Popen[bytes]) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    gpu.lock_clock(405)
    throttle = Throttle(devices, {script.pid: [gpu]}, TRUTH, local_batch=64)
    try:
        wait_for(lambda: stopped(script), "a stop")
        script.terminate()  # must get through, stopped or not
        wait_for(lambda: not throttle.running, "the throttle's end")
        assert script.wait(30) == -signal.SIGTERM
        assert gpu.read().power_w == gpu.idle_w
    finally:
        throttle.close()


_THROTTLER = """
import json, sys, time
from powerflow.device.emulated.gpu import EmulatedGpu
from powerflow.device.emulated.throttle import Throttle
from powerflow.device.emulated.true_cost import model_from
gpus, truth = [EmulatedGpu(sys.argv[3])], model_from(json.loads(sys.argv[4]), "truth")
Throttle(sys.argv[1], {int(sys.argv[2]): gpus}, truth, local_batch=64)
time.sleep(600)
"""


@pytest.mark.parametrize("who", ["the next start", "the watchdog"])
def test_a_group_whose_throttle_was_killed_goes_on(
    tmp_path: Path, devices: Path, script: subprocess.Popen[bytes], who: str
) -> None:
    gpu = emulated_gpus(tmp_path)[0]
    gpu.lock_clock(210)  # mostly stopped
    arguments = [str(devices), str(script.pid), str(gpu.path), json.dumps(model_json(TRUTH))]
    with subprocess.Popen([sys.executable, "-c", _THROTTLER, *arguments]) as throttler:
        wait_for(lambda: stopped(script), "a stop")
        watchdog = the_watchdog(devices)  # before the first stop there is somebody who looks
        if who == "the next start":
            os.kill(watchdog, signal.SIGKILL)
        assert continue_leftovers(devices) == 1, "one that lives is left to its work"
        # stopped itself it stops nobody any more, so the group can be caught standing still
        wait_for(lambda: caught_stopped(throttler.pid, script), "a stop")
        os.kill(throttler.pid, signal.SIGKILL)
    if who == "the next start":
        assert stopped(script)
        assert continue_leftovers(devices) == 0
    wait_for(lambda: not stopped(script), "going on")
    assert never_stopped(script)
    wait_for(lambda: not list((devices / NOTES).iterdir()), "no note")


def caught_stopped(throttler: int, script: subprocess.Popen[bytes]) -> bool:
    os.kill(throttler, signal.SIGSTOP)
    wait_for(lambda: psutil.Process(throttler).status() == psutil.STATUS_STOPPED, "a stopped throttle")
    if stopped(script):
        return True
    os.kill(throttler, signal.SIGCONT)
    return False


def test_a_damaged_note_goes(tmp_path: Path, devices: Path) -> None:
    (devices / NOTES).mkdir(parents=True)
    (devices / NOTES / "7.json").write_text("{")
    assert continue_leftovers(devices) == 0
    assert continue_leftovers(tmp_path) == 0
    assert not list((devices / NOTES).iterdir())
