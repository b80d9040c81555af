"""The main job, made small: real ranks on emulated GPUs, and nothing left behind however it ends."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("torch", reason="the demo trains with PyTorch")

from powerflow.api.job_spec import JobSpec
from powerflow.api.records import JobState, Top
from powerflow.cli.demo import _verdict, cluster, run_jobs
from powerflow.demo.jobs import TRAIN, Arrival, arrivals, warm_up
from powerflow.device.emulated.gpu import EmulatedGpu

ENOUGH_S = 120.0


@pytest.mark.parametrize(
    ("off_jct", "off_j", "said"),
    [(-0.041, 0.02, ": reached."), (-0.041, 0.12, ": not reached."), (-0.11, 0.0, ": not reached.")],
)
def test_the_demo_says_whether_simulation_and_life_agree(off_jct: float, off_j: float, said: str) -> None:
    assert said in _verdict(off_jct, off_j)


def small(name: str, kind: str, gpus: str, after_s: float) -> Arrival:
    """A job of 24 steps of some 0.2 s."""
    run = f"{sys.executable} {TRAIN} --kind {kind} --epochs 2 --steps 12 --batch 64"
    fields = {
        "name": name,
        "run": run,
        "gpus": gpus,
        "batch": {"global": 64},
        "rescale": "in-place",
        "model": "imagenet",
    }
    return Arrival(after_s, JobSpec.model_validate(fields))


def left_behind(directory: Path) -> list[str]:
    """Command lines of processes that still have to do with a state directory."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = " ".join(process.info["cmdline"] or ()) + " ".join((process.info["environ"] or {}).values())
        if str(directory) in words and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
            found.append(words)
    return found


def until_nothing_is_left(directory: Path) -> None:
    """Wait until no process has to do with a directory; the watchdog goes with its directory, within a second."""
    end_s = time.monotonic() + ENOUGH_S
    while left := left_behind(directory):
        assert time.monotonic() < end_s, left
        time.sleep(0.2)


def test_jobs_train_and_every_joule_is_theirs_or_idle(tmp_path: Path) -> None:
    seen: list[Top] = []
    state = tmp_path / "state"
    state.mkdir()
    jobs = [small("a", "mlp", "1..4", 0.0), small("b", "conv", "1..4", 1.0), small("c", "lstm", "1", 2.0)]
    with cluster(state) as live:
        done = run_jobs(live, jobs, lambda top, coming: seen.append(top))
        metered_j, jobs_j, idle_j = live.controller.power.totals_j()
    assert [job.state for job in done.jobs] == [JobState.COMPLETED] * 3
    assert [job.steps for job in done.jobs] == [24.0] * 3
    assert jobs_j + idle_j == pytest.approx(metered_j, rel=5e-3)
    assert sum(job.energy_j for job in done.jobs) == pytest.approx(jobs_j, rel=1e-6)
    assert any(top.gpus_busy > 1 for top in seen)
    assert all(top.emulated for top in seen)
    gpus = [EmulatedGpu(path) for path in (state / "device" / "emulated").glob("*/*") if path.name[0] != "."]
    assert [gpu.read().locked_mhz for gpu in gpus] == [None] * 8  # as they were before anybody had them
    live_run, same, fifo = done.outcomes
    assert all(outcome.jct_s > 0 and math.isfinite(outcome.energy_j) for outcome in (live_run, same, fifo))
    state.rename(tmp_path / "moved")  # nobody holds on to it
    until_nothing_is_left(state)


def test_ctrl_c_ends_everything_that_was_started(tmp_path: Path) -> None:
    state = tmp_path / "state"
    command = [sys.executable, "-m", "powerflow", "demo", "--keep", str(state)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        end_s = time.monotonic() + ENOUGH_S
        while not list(state.glob("jobs/*/ranks/*.json")):  # a rank of a first job runs
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < end_s
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=ENOUGH_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, (out, err)
    assert err.strip() == "powerflow: interrupted"
    state.rename(tmp_path / "moved")
    until_nothing_is_left(state)


def test_the_ten_jobs_are_ten_and_come_in_order() -> None:
    jobs = arrivals()
    assert len(jobs) == 10
    assert [job.after_s for job in jobs] == sorted(job.after_s for job in jobs)
    assert len({job.spec.name for job in jobs}) == 10
    assert json.dumps([job.spec.model_dump(mode="json", by_alias=True) for job in jobs])


def test_each_kind_of_network_is_warmed_up() -> None:
    def kinds(specs: list[JobSpec]) -> set[str]:
        return {str(spec.run).split("--kind ")[1].split()[0] for spec in specs}

    assert kinds(warm_up()) == kinds([job.spec for job in arrivals()])
