"""Save checkpoints while a run trains. Other ranks do not wait for the disk.

Between two steps, rank 0 copies the state of the run in memory. A separate thread writes the copy to a temporary file,
waits until the disk has stored it, and renames the file. If there is not enough memory for a copy, rank 0 writes the
state at once, and the other ranks wait.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch

from powerflow.elastic.fence import Overtaken, raise_fence
from powerflow.elastic.mailbox import Phase
from powerflow.elastic.reporter import Reporter
from powerflow.elastic.state import Training, copied, load

#: Time between two attempts to save a state that no other rank has. The controller waits 30 s before it ends the rank;
#: until then a full disk may get room.
SAVE_AGAIN_S = 0.5
#: Largest share of the free memory that a copy may take.
_SHARE = 0.25


class CheckpointWriter:
    """Writes the checkpoints of one rank to a file, one at a time, and reports the step of the last one.

    Attributes:
        generation: Generation of the rank; states are refused if a later one has taken over.
    """

    def __init__(self, training: Training, path: Path, reporter: Reporter) -> None:
        self._training, self._path, self._reporter = training, path, reporter
        self.generation = 0
        self._loaded_step = 0  # step of the checkpoint from which this rank began
        self._saved_s = time.monotonic()
        self._thread: threading.Thread | None = None

    def lead(self) -> None:
        """Make this rank the one that saves checkpoints.

        If the run has trained further than the checkpoint from which this rank began, a checkpoint is due at once,
        because it is unknown when another rank last saved one.
        """
        self._saved_s = -1e9 if self._training.position.step > self._loaded_step else time.monotonic()

    def resume(self, generation: int) -> None:
        """Load the checkpoint, if it exists, because this rank leads a generation and has no state of the run."""
        self.take_over(generation)  # before the file is read, so that nobody replaces it afterwards
        state = load(self._path)
        if state is not None:
            self._training.become(state)
            self._training.joined = False  # the state of a remaining rank is newer
            self._loaded_step = self._training.position.step
            self._reporter.note(saved_step=self._loaded_step)

    def take_over(self, generation: int) -> None:
        """Refuse states of earlier generations from now on, because this rank leads a later one."""
        try:
            raise_fence(self._path, generation)
        except OSError as error:  # saving a state tries this again
            self._reporter.note(note=f"no checkpoint: {error}")

    def due(self, every_s: float) -> bool:
        """Return True if a checkpoint is due: ``every_s`` seconds have passed since the last checkpoint.

        No checkpoint is due if ``every_s`` is 0, or while a checkpoint is being written.
        """
        return every_s > 0 and time.monotonic() - self._saved_s >= every_s and not self._writing()

    def save(self) -> None:
        """Copy the state of the run, and start to write the copy to the file; training continues during the write."""
        self._saved_s = time.monotonic()
        step, generation = self._training.position.step, self.generation
        if _bytes(self._training) > _SHARE * _free_bytes():
            self._written(step, lambda: self._training.save(self._path, generation))
            return
        copy = copied(self._training.state())

        def write() -> None:
            keep = self._training.keep
            self._written(step, lambda: keep(self._path, step, generation, lambda file: torch.save(copy(), file)))

        self._thread = threading.Thread(target=write, name="powerflow-checkpoint", daemon=True)
        self._thread.start()

    def save_last(self) -> None:
        """Save the state before this rank leaves, because no other rank has the state.

        Try again until this succeeds or the controller ends this process. If a later generation has taken over, this
        state belongs to nobody and is not saved.
        """
        self._reporter.tell(Phase.SAVING)
        self.wait()
        while True:
            try:
                self._training.save(self._path, self.generation)
            except Overtaken as error:
                self._reporter.note(note=f"the state is not saved: {error}")
                return
            except OSError as error:
                self._reporter.tell(note=f"the checkpoint cannot be saved, trying again: {error}")
                time.sleep(SAVE_AGAIN_S)
            else:
                self._reporter.note(saved_step=self._training.position.step, note="")
                return

    def wait(self) -> None:
        """Wait until no checkpoint is being written."""
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
    """Return an estimate of the bytes of the run's state.

    The estimate counts the model's parameters, and for each parameter two numbers of the optimiser.
    """
    return 3 * sum(parameter.numel() * parameter.element_size() for parameter in training.model.parameters())


def _free_bytes() -> int:
    """Return how many bytes of memory this process may still use, within the limits of machine and control group."""
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
