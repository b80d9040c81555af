"""Saves a run's state every so often while it trains: others wait for a copy of it, not for the disk.

Rank 0 copies the state in memory between two steps, and a thread of its own writes the copy: to a temporary file,
synced, then renamed. Where there is not memory enough for a copy, the state is written at once, and the others wait.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from powerflow.elastic.reporter import Reporter
from powerflow.elastic.state import Training, copied

#: A copy may take this share of the memory that is free.
_SHARE = 0.25


class CheckpointWriter:
    """Writes checkpoints of one rank, one at a time.

    Args:
        training: What is saved.
        path: The file.
        reporter: Says which step is safe.
    """

    def __init__(self, training: Training, path: Path, reporter: Reporter) -> None:
        self._training, self._path, self._reporter = training, path, reporter
        self._saved_s = time.monotonic()
        self._thread: threading.Thread | None = None

    def lead(self, saved_step: int) -> None:
        """Begin to lead. Except after a checkpoint was read, it is not known when the last leader saved.

        Args:
            saved_step: Step that is known to be safe.
        """
        self._saved_s = -1e9 if self._training.position.step > saved_step else time.monotonic()

    def due(self, every_s: float) -> bool:
        """Return whether to save now; ``every_s`` 0: never.

        A write that is still under way is never hurried: the disk decides how often there is a checkpoint then.
        """
        return every_s > 0 and time.monotonic() - self._saved_s >= every_s and not self._writing()

    def save(self) -> None:
        """Copy the state, and have it written while training goes on."""
        self._saved_s = time.monotonic()
        step = self._training.position.step
        if _bytes(self._training) > _SHARE * _free_bytes():
            self._written(step, lambda: self._training.save(self._path))
            return
        copy = copied(self._training.state())

        def write() -> None:
            keep = self._training.keep
            self._written(step, lambda: keep(self._path, step, lambda file: torch.save(copy(), file)))

        self._thread = threading.Thread(target=write, name="powerflow-checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Wait until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _writing(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _written(self, step: int, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            self._reporter.note(note=f"no checkpoint: {error}")
        else:
            self._reporter.note(saved_step=step)


def _bytes(training: Training) -> int:
    """Bytes of the model's parameters, and as many for each of two moments of an optimiser."""
    return 3 * sum(parameter.numel() * parameter.element_size() for parameter in training.model.parameters())


def _free_bytes() -> int:
    """Memory that this process may still take, as far as it can tell: the machine's, and its control group's."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
        group = Path("/sys/fs/cgroup", Path("/proc/self/cgroup").read_text("utf-8").rpartition("::/")[2].strip())
        most = (group / "memory.max").read_text("ascii").strip()
        if most != "max":
            free = min(free, int(most) - int((group / "memory.current").read_text("ascii")))
    except (OSError, ValueError, StopIteration):
        pass  # no control group of its own, or another system
    return free
