"""Running jobs of a simulation: what each does and draws while it holds the same GPUs at the same clock."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.kernel import kernel
from powerflow.scheduler.events import Progress
from powerflow.scheduler.plan import Change


@dataclass(slots=True, eq=False)
class Stretch:
    """The time in which a job holds the same GPUs at the same clock.

    Attributes:
        job: Position of the job in the workload.
        change: The allocation.
        since_s: When the stretch began.
        resume_s: When its pause ends; until then the job makes no progress.
        done: Iterations done when it began.
        rate: Iterations per second after the pause.
        power_w: Watts of the GPUs after the pause.
        idle_w: Watts of the GPUs if they were idle.
        paused_w: Watts of the GPUs during the pause: as idle ones, or as running ones if clocks are explored.
        paused: Whether the pause has not ended yet.
        saved: Iterations in the last checkpoint when the stretch began.
        unsaved_s: Seconds of running since that checkpoint when the stretch began.
        exploring: Whether the job tries clocks during the pause.
        over: Whether the job has given these GPUs up.
    """

    job: int
    change: Change
    since_s: float
    resume_s: float
    done: float
    rate: float
    power_w: float
    idle_w: float
    paused_w: float
    paused: bool
    saved: float
    unsaved_s: float
    exploring: bool
    over: bool = False

    @property
    def watts(self) -> float:
        """Watts of the GPUs now."""
        return self.paused_w if self.paused else self.power_w

    def ran_s(self, now_s: float) -> float:
        """Return the seconds without pause so far."""
        return max(0.0, now_s - self.resume_s)

    def energy_j(self, now_s: float) -> float:
        """Return the joules of the GPUs so far."""
        return self.paused_w * (min(now_s, self.resume_s) - self.since_s) + self.power_w * self.ran_s(now_s)

    def checkpoint(self, now_s: float, every_s: float) -> tuple[float, float]:
        """Return the iterations in the last checkpoint, and the seconds of running since then.

        The job saves a checkpoint after every ``every_s`` seconds of running.
        """
        ran_s = self.ran_s(now_s)
        unsaved_s = self.unsaved_s + ran_s
        if unsaved_s < every_s:
            return self.saved, unsaved_s
        unsaved_s = math.fmod(unsaved_s, every_s)
        return self.done + (ran_s - unsaved_s) * self.rate, unsaved_s


class ProgressTable:
    """Progress of all running jobs, in arrays by slot, because a month of jobs asks for it millions of times."""

    def __init__(self) -> None:
        self._running = np.zeros(64, np.bool_)
        self._done, self._resume_s, self._rate = np.zeros(64), np.zeros(64), np.zeros(64)

    def start(self, stretch: Stretch) -> None:
        """Add a stretch that begins."""
        slot = stretch.change.slot
        while slot >= len(self._done):
            self._running, self._done, self._resume_s, self._rate = (
                np.concatenate([values, np.zeros_like(values)])
                for values in (self._running, self._done, self._resume_s, self._rate)
            )
        self._running[slot] = True
        self._done[slot], self._resume_s[slot], self._rate[slot] = stretch.done, stretch.resume_s, stretch.rate

    def stop(self, slot: int) -> None:
        """Remove a stretch that is over."""
        self._running[slot] = False

    def at(self, now_s: float) -> Progress:
        """Return the progress of all running jobs."""
        slots, done = np.empty(len(self._running), np.int64), np.empty(len(self._running))
        count = progress(self._running, self._done, self._resume_s, self._rate, now_s, slots, done)
        return Progress(slots[:count], done[:count])

    def gained(self, now_s: float) -> float:
        """Return the iterations that all running jobs have done since their stretches began."""
        now = self.at(now_s)
        gained: float = (now.done - self._done[now.slots]).sum()
        return gained


@kernel
def progress(
    running: BoolArray,
    done: FloatArray,
    resume_s: FloatArray,
    rate: FloatArray,
    now_s: float,
    slots: IntArray,
    so_far: FloatArray,
) -> int:
    """Write slots and iterations of the running jobs to ``slots`` and ``so_far``, and return how many run.

    The first four arguments are by slot.
    """
    count = 0
    for slot in range(len(running)):
        if running[slot]:
            slots[count] = slot
            so_far[count] = done[slot] + max(0.0, now_s - resume_s[slot]) * rate[slot]
            count += 1
    return count
