"""The batch script for Slurm: jobs run on an allocation's nodes, end with it, and go on in the next one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from powerflow.testing.hosts import Hosts
from tests.live.slurm_on_hosts import SlurmOnHosts, folder, why_not
from tests.slow import slow

pytest.importorskip("ray")
pytestmark = [slow, pytest.mark.skipif(bool(why_not()), reason=why_not() or "")]


@pytest.fixture
def slurm() -> Iterator[SlurmOnHosts]:
    with folder() as home:
        with Hosts(2, Path(home) / "bed") as hosts:
            slurm = SlurmOnHosts(hosts, Path(home))
            yield slurm
        slurm.close()


def test_jobs_run_in_an_allocation_and_go_on_in_the_next(slurm: SlurmOnHosts) -> None:
    first, second = map(slurm.hosts.name, slurm.hosts.numbers())
    allocation = slurm.allocate(1, 2)

    def submit(command: str) -> str:
        return str(slurm.powerflow(1, "submit", "-o", "none", "--gpus", "4", "--run", command)["job"]["id"])

    def state(host: int, job: str) -> Any:
        return slurm.powerflow(host, "describe", job)["job"]["state"]

    def nodes(host: int, job: str, state: str) -> list[str]:
        ranks = slurm.powerflow(host, "describe", job)["ranks"]
        return [rank["node"] for rank in ranks if rank["state"] == state]

    # two jobs of four GPUs each fill two nodes; each says where it runs
    short = [submit("hostname; sleep 10") for _ in range(2)]
    slurm.until(lambda: all(state(1, each) == "completed" for each in short))
    planned = [nodes(1, each, "ended") for each in short]
    assert sorted(planned) == [[first], [second]]
    assert [slurm.user(1, *_powerflow("logs", each)).split() for each in short] == planned

    # seven minutes before the end Slurm signals the script: jobs save their state and stop, and everything ends
    long = submit("sleep 1000")
    slurm.until(lambda: len(nodes(1, long, "running")) == 1)
    assert "sleep 1000" in slurm.processes()
    slurm.root("scancel", "--batch", "--signal=TERM", allocation)
    slurm.until(lambda: not slurm.runs(allocation))
    assert '"the controller drains"' in slurm.log(allocation)
    slurm.until(lambda: not slurm.processes())

    # the controller moves to another node, and the job goes on there
    allocation = slurm.allocate(2)
    slurm.until(lambda: nodes(2, long, "running") == [second])

    # an end without a warning: no rank outlives it, and the next controller knows that
    slurm.root("scancel", allocation)
    slurm.until(lambda: not slurm.runs(allocation) and not slurm.processes())
    slurm.allocate(1)
    slurm.until(lambda: nodes(1, long, "running") == [first])


def _powerflow(*words: str) -> list[str]:
    return [str(Path(sys.prefix) / "bin" / "powerflow"), *words]
