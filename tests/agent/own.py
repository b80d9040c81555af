"""The agent that a controller has started on its own machine."""

from __future__ import annotations

import contextlib
import os
import select
import signal
from pathlib import Path


def agent_of(state: Path) -> int | None:
    """Its pid, by the state directory of the controller."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().split(b"\0")
            if b"powerflow.agent.own" in words and str(state).encode() in words:
                return int(path.parent.name)
    return None


def end_agent(state: Path) -> None:
    """Kill it, so that it does not start again what a test ends next."""
    pid = agent_of(state)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            os.kill(pid, signal.SIGKILL)
            select.select([descriptor], [], [], 30.0)
            os.close(descriptor)
