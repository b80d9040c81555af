"""Shells of a user and of an operator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from powerflow.api.records import JobState
from powerflow.kernel import _Later
from powerflow.service.server import ApiServer
from tests.cli.shell import ADA, Shell
from tests.service.fake_cluster import FakeCluster
from tests.service.serving import service


@pytest.fixture(autouse=True)
def _own_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ``powerflow serve`` in this process makes all its kernels patient: not those of later tests."""
    monkeypatch.setattr(_Later, "patience_s", _Later.patience_s)


@pytest.fixture
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No settings of this machine reach the test."""
    for name in ("URL", "TOKEN", "TOKEN_FILE", "STATE"):
        monkeypatch.delenv(f"POWERFLOW_{name}", raising=False)
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setattr("powerflow.cli.settings.SYSTEM_FILE", tmp_path / "etc.yaml")
    monkeypatch.setenv("COLUMNS", "140")
    return tmp_path


@pytest.fixture
def shell(quiet: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Shell]:
    cluster = FakeCluster(now_s=time.time())
    with ApiServer(service(cluster)) as server:
        monkeypatch.setenv("POWERFLOW_URL", server.url)
        monkeypatch.setenv("POWERFLOW_TOKEN", "pf_user")
        yield Shell(cluster, server.url, capsys)


@pytest.fixture
def operator(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setenv("POWERFLOW_TOKEN", "pf_operator")
    return shell


@pytest.fixture
def busy(shell: Shell) -> Shell:
    """A running, a waiting, a held and a failed job."""
    for name in ("resnet50", "bert", "held", "broken"):
        shell("submit", "--run", "python t.py", "--name", name, "--project", "vision")
    now = shell.cluster.now_s
    fields: dict[str, Any] = {
        "steps": 250.0,
        "steps_total": 1000.0,
        "progress": 0.25,
        "step_time_s": 0.112,
        "eta_s": now + 7259,
    }
    shell.cluster.run("1", gpus=2, energy_j=180_000.0, model_error=0.031, **fields)
    shell.cluster.hold("3", ADA)
    shell.cluster.write("4", "one\nboom\n")
    shell.cluster.end("4", JobState.FAILED, "failed 3 times")
    return shell
