"""Whose jobs can be run on the controller's machine, and where."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

import pytest

from powerflow.api.job_spec import JobSpec
from powerflow.api.records import Caller, Refused, Role
from powerflow.engine.protocol import RankSpec
from powerflow.live.build import _may_run, _may_run_on
from powerflow.live.cluster_service import ClusterService
from powerflow.live.fabric import FabricSettings, ManyMachines
from powerflow.testing.memory_engine import MemoryCluster, MemoryEngine
from tests.live.controller_bench import Bench

ME = getpass.getuser()


def test_a_directory_that_is_not_there_is_refused_at_submission(bench: Bench, tmp_path: Path) -> None:
    service, me = ClusterService(bench.controller, _may_run(False)), Caller(ME, Role.USER)
    file = tmp_path / "file"
    file.touch()
    for missing in (tmp_path / "typo", file, file / "below"):
        with pytest.raises(Refused, match="there is no directory"):
            service.submit(JobSpec(run="true", directory=str(missing)), me)
    service.submit(JobSpec(run="true", directory=str(tmp_path)), me)
    service.submit(JobSpec(run="true"), me)


def test_who_may_not_look_learns_nothing(tmp_path: Path) -> None:
    """What a controller of root sees in somebody's private folder it does not tell others."""
    private = tmp_path / "private"
    private.mkdir(mode=0o700)
    if os.geteuid() != 0:
        pytest.skip("only root sees what others hide")
    other = "nobody"
    assert _may_run(True)(other, str(private / "secret")) == ""
    assert "no directory" in _may_run(True)(other, "/no/such/directory")


def test_other_users_are_refused() -> None:
    assert "cannot run jobs of" in _may_run(False)("somebody-else", None)
    assert "no login" in _may_run(True)("somebody-else", None)


def test_machines_are_asked_whether_they_can_run_ranks_as_the_jobs_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without root would otherwise run everybody's jobs as its agent's user."""
    asked: list[RankSpec] = []
    engine = MemoryEngine(MemoryCluster({"n": 8}))

    def check(spec: RankSpec) -> str:
        asked.append(spec)
        return "only root can run ranks as ada"

    monkeypatch.setattr(engine, "check", check)
    assert _may_run_on(engine)("ada", None) == "only root can run ranks as ada on n"
    assert asked[0].user == "ada"


def test_ranks_of_many_machines_run_as_users_before_any_machine_is_known(tmp_path: Path) -> None:
    fabric = ManyMachines(FabricSettings(tmp_path))
    assert fabric.runs_as_users
    fabric.close()
