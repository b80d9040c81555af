"""A local engine of one's own, and the certainty that nothing of it is left behind."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from powerflow.engine.local import LocalEngine
from powerflow.testing.engine_conformance_process import alive


class LocalPlace:
    """A directory, and every engine object that was opened over it."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.opened: list[LocalEngine] = []

    def __call__(self, *preload: str) -> LocalEngine:
        engine = LocalEngine(self.home, {"n1": 4, "n2": 4}, preload=preload)
        self.opened.append(engine)
        return engine

    def server(self) -> int:
        """The fork server's pid."""
        return int(self.opened[-1]._ask({"do": "hello"})["pid"])

    def keepers(self) -> list[int]:
        """Pids of the fork server and the shims: they stand in the engine's directory."""
        found = []
        for entry in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if entry.isdigit() and os.readlink(f"/proc/{entry}/cwd") == str(self.home) and alive(int(entry)):
                    found.append(int(entry))
        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[LocalPlace]:
    home = tmp_path / "engine"
    there = LocalPlace(home)
    yield there
    last = there()
    ranks = [status.pid for status in last.ranks()]
    last.shutdown(kill=True)
    for engine in there.opened:
        engine.close()
    assert not (home / "agent.sock").exists()
    assert [pid for pid in ranks if alive(pid)] == []
    deadline_s = time.monotonic() + 30.0
    while there.keepers() and time.monotonic() < deadline_s:  # who has said all is a moment from its end
        time.sleep(0.005)
    assert there.keepers() == []
