"""What a controller builds before it serves, and what it leaves behind where that is refused."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, NoReturn

import psutil
import pytest
import structlog

from powerflow.errors import InputError
from powerflow.live import build as built
from powerflow.live.build import ClusterSettings, build


def processes_of(folder: Path) -> list[list[str]]:
    """Return the command lines of living processes that name a folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if process.info["status"] != psutil.STATUS_ZOMBIE and any(str(folder) in word for word in line):
            found.append(line)
    return found


def test_a_start_that_is_refused_leaves_no_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWERFLOW_PRELOAD", "")
    seen: list[list[str]] = []

    def refused(*_: Any, **__: Any) -> NoReturn:
        seen.extend(processes_of(tmp_path))
        raise InputError("this cannot be")

    monkeypatch.setattr(built, "Scheduler", refused)
    with pytest.raises(InputError, match="this cannot be"):
        build(ClusterSettings(tmp_path / "state", emulate="1x2:A100"), structlog.get_logger())
    assert seen, "there was an agent"
    deadline_s = time.monotonic() + 20.0
    while processes_of(tmp_path) and time.monotonic() < deadline_s:
        time.sleep(0.05)
    assert processes_of(tmp_path) == []
