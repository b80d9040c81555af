"""Emulated GPUs and a job for them, for the tests of this room."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from powerflow.cluster.spec import parse_cluster
from powerflow.cost.catalogue import family_model
from powerflow.cost.model import JobModel
from powerflow.device.emulated.gpu import EmulatedGpu, create
from powerflow.osutil.processes import born

#: Longer than any machine needs; nothing waits for it unless something is broken.
DEADLINE_S = 60.0


def emulated_gpus(directory: Path, cluster: str = "1x2:A100") -> list[EmulatedGpu]:
    return create(directory, parse_cluster(cluster).nodes)


def a_job() -> JobModel:
    return family_model("resnet50", "A100")


def wait_for(condition: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < end_s, f"{what} did not come about"
        time.sleep(0.005)


def watchdog_pid(directory: Path) -> int | None:
    """Process of the watchdog that lives for a device directory, if one does."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        pid = int((directory / "watchdog.lock").read_text())
        return pid if born(pid) is not None else None
    return None


def the_watchdog(directory: Path) -> int:
    """The same, once it has said who it is."""
    wait_for(lambda: watchdog_pid(directory) is not None, "a watchdog")
    return watchdog_pid(directory) or 0


def end_watchdog(directory: Path) -> None:
    """Whoever starts one in a test ends it: it goes with its directory."""
    pid = watchdog_pid(directory)

    def over() -> bool:
        shutil.rmtree(directory, ignore_errors=True)  # again: the watchdog may write a file meanwhile
        return pid is None or born(pid) is None

    wait_for(over, "the watchdog's end")
