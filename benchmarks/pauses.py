"""What all measurements of a rescale pause share: the model, the data, the ranks' logs of steps, and what they show.

A pause is the time between the end of the last step of the old gang and the end of the first step of the new one, less
a median step. Each rank writes a line at the end of each step. The times are those of one clock also where ranks run
on several test hosts (`powerflow.testing.hosts`), whose clocks differ: they share a kernel, which says by how much.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.data import TensorDataset

GLOBAL_BATCH = 128


def network() -> nn.Module:
    """1.6 million parameters: 6 MB, and 12 MB more in Adam."""
    return nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 16))


def dataset() -> TensorDataset:
    """Return 32 global batches of noise, the same in each process."""
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(4096, 512, generator=generator), torch.randn(4096, 16, generator=generator))


def clock_ahead_s() -> float:
    """Return by how much the monotonic clock of this process is ahead of that of the machine's first namespace."""
    try:
        lines = Path("/proc/self/timens_offsets").read_text().splitlines()
    except OSError:  # a kernel without such namespaces
        return 0.0
    found = {kind: int(seconds) + int(nanoseconds) / 1e9 for kind, seconds, nanoseconds in map(str.split, lines)}
    return found.get("monotonic", 0.0)


class StepLog:
    """One line at the end of every step: when, what tells one gang from the next, and the CPU time of the rank."""

    def __init__(self, directory: Path) -> None:
        host = os.uname().nodename.replace("-", "_")
        name = f"steps-{host}-{os.getpid()}-{time.monotonic_ns()}"
        self._file = open(directory / name, "a", buffering=1)  # noqa: SIM115
        self._ahead_s = clock_ahead_s()

    def step(self, gang: int) -> None:
        """Note that a step has ended."""
        self._file.write(f"{time.monotonic() - self._ahead_s:.6f} {gang} {time.process_time():.6f}\n")

    def close(self) -> None:
        """Close the log."""
        self._file.close()


class Step(NamedTuple):
    """One line of a rank's log."""

    when_s: float
    gang: int
    rank: str
    cpu_s: float

    @property
    def host(self) -> str:
        """Name of the rank's host."""
        return self.rank.split("-")[1]


def read_steps(directory: Path) -> list[Step]:
    """Return all ranks' lines, by time."""
    found = []
    for path in directory.glob("steps-*"):
        for line in path.read_text().splitlines():
            if len(words := line.split()) == 3:
                found.append(Step(float(words[0]), int(words[1]), path.name, float(words[2])))
    return sorted(found)


def rising(steps: Sequence[Step]) -> list[Step]:
    """Leave out what ranks of an earlier gang say after the first step of a later one: they leave, and say it late."""
    newest, found = 0, []
    for step in steps:
        if step.gang >= newest:
            newest = step.gang
            found.append(step)
    return found


class Pause(NamedTuple):
    """One pause.

    Attributes:
        pause_s: Its seconds.
        before, after: Numbers of ranks.
        stayed: Number of ranks that trained before and after.
        hosts: Number of hosts of all these ranks.
        cpu_s: CPU seconds that a rank which stayed has spent in the pause, beyond those of a step; mean over ranks.
    """

    pause_s: float
    before: int
    after: int
    stayed: int
    hosts: int
    cpu_s: float


def pauses(steps: Sequence[Step]) -> list[Pause]:
    """Return the pauses at every change from one gang to the next, in order.

    A gang is a run of lines with the same number, so that numbers may come again.
    """
    gangs = [list(lines) for _, lines in itertools.groupby(steps, key=lambda step: step.gang)]
    return [_pause(old, new) for old, new in itertools.pairwise(gangs)]


def _pause(old: Sequence[Step], new: Sequence[Step]) -> Pause:
    step_s = _median([gap for rank in {step.rank for step in new} for gap in _gaps(new, rank, "when_s")])
    last, first = {step.rank: step for step in old}, {step.rank: step for step in reversed(new)}
    stayed = last.keys() & first.keys()
    spent_s = [first[rank].cpu_s - last[rank].cpu_s - _median(_gaps(new, rank, "cpu_s")) for rank in stayed]
    gap_s = new[0].when_s - old[-1].when_s
    hosts = {step.host for step in (*old, *new)}
    cpu_s = sum(spent_s) / max(1, len(stayed))
    return Pause(max(0.0, gap_s - step_s), len(last), len(first), len(stayed), len(hosts), cpu_s)


def _gaps(steps: Sequence[Step], rank: str, clock: str) -> list[float]:
    """Return what passes on a clock from each step of a rank to its next step."""
    times: list[float] = [getattr(step, clock) for step in steps if step.rank == rank]
    return [after - before for before, after in itertools.pairwise(times)]


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0


def p95(values: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return sorted(values)[int(0.95 * (len(values) - 1))]


def wait(condition: Callable[[], bool], deadline_s: float = 120.0, look_s: float = 0.01) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: It does not come about in time.
    """
    end = time.monotonic() + deadline_s
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("what the benchmark waits for does not come about")
        time.sleep(look_s)
