"""Who computes on a GPU, from the control groups of its processes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from powerflow.watch.owners import GpuAddress
from powerflow.watch.sources.processes import ProcessOwners

GPU, OTHER = GpuAddress("n1", 0), GpuAddress("n1", 1)
POD = "kubepods-burstable-pod8f0d3c1a_2b4e_4c6d_9e8f_001122334455.slice"


class Gpus:
    def __init__(self, **pids: tuple[int, ...] | None) -> None:
        self.pids = {GPU if name == "a" else OTHER: each for name, each in pids.items()}


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "uptime").write_text("1000.00 1.0\n")
    return tmp_path


def process(
    proc: Path, pid: int, group: str, *, born_s: float = 400.0, session: int = 77, name: str = "python"
) -> None:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "cgroup").write_text(f"0::{group}\n")
    (folder / "comm").write_text(f"{name}\n")
    ticks = int(born_s * os.sysconf("SC_CLK_TCK"))
    (folder / "stat").write_text(f"{pid} (x) S 1 {pid} {session} 0 " + "0 " * 14 + f"{ticks} 0\n")


@pytest.mark.parametrize(
    ("group", "key", "id"),
    [
        ("/system.slice/slurmstepd.scope/job_4711/step_0/user/task_0", "slurm:4711", "4711"),
        ("/slurm/uid_1000/job_4711/step_batch", "slurm:4711", "4711"),
        (
            f"/kubepods.slice/{POD}/cri-containerd-0123456789abcdef.scope",
            "pod:8f0d3c1a-2b4e-4c6d-9e8f-001122334455",
            "8f0d3c1a-2b4",
        ),
        ("/system.slice/docker-0123456789abcdef0123.scope", "container:0123456789abcdef0123", "0123456789ab"),
        ("/docker/0123456789abcdef0123", "container:0123456789abcdef0123", "0123456789ab"),
        ("/user.slice/user-1000.slice/session-3.scope", f"session:{os.getuid()}:77", "77"),
    ],
)
def test_a_control_group_names_the_job(proc: Path, group: str, key: str, id: str) -> None:
    process(proc, 5, group)
    look = ProcessOwners(Gpus(a=(5,)), proc).look(2000.0)
    (job,) = look.jobs.values()
    assert (job.key, job.id, job.name) == (key, id, "python")
    assert [(each.job, each.gpu, each.end_s) for each in look.holdings] == [(key, GPU, None)]


def test_a_job_holds_its_gpus_since_its_first_process_began(proc: Path) -> None:
    for pid, born_s in ((5, 400.0), (6, 300.0), (7, 500.0)):
        process(proc, pid, "/docker/0123456789abcdef0123", born_s=born_s)
    look = ProcessOwners(Gpus(a=(5, 6), b=(7,)), proc).look(2000.0)
    (job,) = look.jobs.values()
    assert job.start_s == pytest.approx(2000.0 - 1000.0 + 300.0, abs=0.02)
    assert sorted(each.gpu for each in look.holdings) == [GPU, OTHER]


def test_services_of_the_driver_hold_nothing(proc: Path) -> None:
    process(proc, 5, "/", name="nvidia-cuda-mps-server")
    look = ProcessOwners(Gpus(a=(5,)), proc).look(2000.0)
    assert (look.jobs, look.holdings) == ({}, [])


def test_hidden_processes_and_a_driver_that_does_not_tell_are_said(proc: Path) -> None:
    look = ProcessOwners(Gpus(a=(99,), b=None), proc).look(2000.0)
    assert look.holdings == []
    assert any("1 processes on GPUs are hidden" in note for note in look.notes)
    assert any("does not tell the processes of 1 GPUs" in note for note in look.notes)


def test_this_very_process_can_be_read() -> None:
    look = ProcessOwners(Gpus(a=(os.getpid(),))).look(1e9)
    (job,) = look.jobs.values()
    assert job.user
    assert job.start_s <= 1e9
