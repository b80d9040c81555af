"""Shells of a user and of an operator."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from powerflow.service.server import ApiServer
from tests.cli.shell import Shell
from tests.service.fake_cluster import FakeCluster
from tests.service.serving import service


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
