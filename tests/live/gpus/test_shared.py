"""While somebody else computes on a job's GPU, what it draws is charged to nobody, and nothing is learned from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from powerflow.agent import devices
from powerflow.device.emulated.gpu import EmulatedGpu, own_identity
from tests.live.controller_bench import Bench

STRANGER = ("python (process 7 of eve)",)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path, "1x2:A100")
    yield bench
    bench.close()


def test_nobody_pays_for_what_cannot_be_told_apart(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.steps_total = 1_000_000
    job = bench.submit(gpus=1, model="resnet50")
    bench.until_trains(job)
    entry = bench.controller.jobs[job]
    ((node, (number,)),) = entry.placement
    power = bench.controller.power
    read = EmulatedGpu.read
    monkeypatch.setattr(EmulatedGpu, "read", lambda gpu: replace(read(gpu), pids=(7,) if gpu.index == number else ()))
    monkeypatch.setattr(devices, "strangers", lambda pids, ours, *, spare_containers: STRANGER)
    bench.turn(20)  # it is seen, and the reading before is handed out
    pid, birth = own_identity()
    EmulatedGpu(bench.gpus[number].path).draw(390.0, pid=pid, birth=birth, arrears_j=5e3)  # the stranger's
    charged_j, idle_j = entry.energy_j, power.totals_j()[2]
    bench.turn(20)
    assert entry.energy_j == charged_j
    assert power.totals_j()[2] - idle_j > 5e3
    assert entry.gpu_s > 0
    assert job in power.disturbed()
    assert entry.window is None
    assert any(f"GPU {number} of {node} is also used by {STRANGER[0]}" in notice for notice in power.notices())
    metered_j, jobs_j, all_idle_j = power.totals_j()
    assert metered_j == pytest.approx(jobs_j + all_idle_j)
