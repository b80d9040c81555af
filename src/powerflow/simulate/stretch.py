"""Compute what each running job of a simulation does and draws while its GPUs and its clock stay the same."""

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
    """A stretch: the time in which a job holds the same GPUs at the same clock.

    Attributes:
        job: Position of the job in the workload.
        change: The allocation of the job.
        since_s: Time at which the stretch began, seconds.
        resume_s: Time at which the pause of the job ends, seconds. Before it the job makes no progress.
        done: Iterations that the job had done when the stretch began.
        rate: Iterations per second after the pause.
        power_w: Watts of the job's GPUs after the pause.
        idle_w: Watts that these GPUs would draw if they were idle.
        paused_w: Watts of the GPUs during the pause: ``power_w`` if the job tries clocks, otherwise ``idle_w``.
        paused: True until the pause has ended.
        watts: Watts that the GPUs draw now.
        saved: Iterations in the last checkpoint when the stretch began.
        unsaved_s: Seconds that the job had run after that checkpoint when the stretch began.
        exploring: True if the job tries clocks during the pause.
        over: True if the job no longer holds these GPUs at this clock.
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
    watts: float
    saved: float
    unsaved_s: float
    exploring: bool
    over: bool = False

    def ran_s(self, now_s: float) -> float:
        """Return the seconds that the job has run in this stretch until ``now_s``, without its pause."""
        return max(0.0, now_s - self.resume_s)

    def energy_j(self, now_s: float) -> float:
        """Return the joules that the job's GPUs have used in this stretch until ``now_s``."""
        return self.paused_w * (min(now_s, self.resume_s) - self.since_s) + self.power_w * self.ran_s(now_s)

    def checkpoint(self, now_s: float, every_s: float) -> tuple[float, float]:
        """Return the iterations in the job's last checkpoint, and the seconds that the job has run since then.

        The job saves a checkpoint after every ``every_s`` seconds of running.
        """
        ran_s = self.ran_s(now_s)
        unsaved_s = self.unsaved_s + ran_s
        if unsaved_s < every_s:
            return self.saved, unsaved_s
        unsaved_s = math.fmod(unsaved_s, every_s)
        return self.done + (ran_s - unsaved_s) * self.rate, unsaved_s


class ProgressTable:
    """The progress of all running jobs, in arrays by slot (row of the scheduler's ledger).

    Arrays make it fast: the simulation of a month reads the progress millions of times. A stretch is the time in which
    a job holds the same GPUs at the same clock.
    """

    def __init__(self) -> None:
        self._running = np.zeros(64, np.bool_)
        self._done, self._resume_s, self._rate = np.zeros(64), np.zeros(64), np.zeros(64)

    def start(self, stretch: Stretch) -> None:
        """Add a job that now begins a stretch (a time in which its GPUs and its clock stay the same)."""
        slot = stretch.change.slot
        while slot >= len(self._done):
            self._running, self._done, self._resume_s, self._rate = (
                np.concatenate([values, np.zeros_like(values)])
                for values in (self._running, self._done, self._resume_s, self._rate)
            )
        self._running[slot] = True
        self._done[slot], self._resume_s[slot], self._rate[slot] = stretch.done, stretch.resume_s, stretch.rate

    def stop(self, slot: int) -> None:
        """Remove the job in a slot (row of the ledger), because it no longer holds its GPUs at the same clock."""
        self._running[slot] = False

    def at(self, now_s: float) -> Progress:
        """Return the iterations that each running job has done by ``now_s``."""
        slots, done = np.empty(len(self._running), np.int64), np.empty(len(self._running))
        count = progress(self._running, self._done, self._resume_s, self._rate, now_s, slots, done)
        return Progress(slots[:count], done[:count])

    def gained(self, now_s: float) -> float:
        """Return the iterations of all running jobs together, each counted since its GPUs or its clock last changed."""
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
    """Write the slots (rows of the ledger) and done iterations of the running jobs to ``slots`` and ``so_far``.

    Args:
        running: True for each slot whose job runs.
        done: Iterations that each job had done when it last changed its GPUs or its clock, by slot.
        resume_s: Time at which each job's pause ends, seconds, by slot.
        rate: Iterations per second of each job, by slot.
        now_s: The time, seconds.
        slots: Result: slots of the running jobs.
        so_far: Result: iterations that each of these jobs has done.

    Returns:
        Number of running jobs: how many entries of ``slots`` and ``so_far`` were written.
    """
    count = 0
    for slot in range(len(running)):
        if running[slot]:
            slots[count] = slot
            so_far[count] = done[slot] + max(0.0, now_s - resume_s[slot]) * rate[slot]
            count += 1
    return count
