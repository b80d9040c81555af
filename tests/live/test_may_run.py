"""Whose jobs can be run on the controller's machine, and where."""

from __future__ import annotations

import getpass
import os
from pathlib import Path

import pytest

from powerflow.api.job_spec import JobSpec
from powerflow.api.records import Caller, Refused, Role
from powerflow.live.build import _may_run
from powerflow.live.cluster_service import ClusterService
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
