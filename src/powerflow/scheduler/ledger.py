"""Keep all active jobs, each as one row of numbers.

The number of the row is the job's *slot*. After the end of the job, another job can get this slot.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.job import Job
from powerflow.kernel import kernel
from powerflow.policy.protocol import JOB, JobRows, pick_rows


@kernel
def bring_up_to_date(
    remaining: FloatArray,
    attained_gpu_s: FloatArray,
    done: FloatArray,
    gpus: IntArray,
    since_s: FloatArray,
    believed: FloatArray,
    slots: IntArray,
    now_s: float,
) -> None:
    """Compute the remaining iterations and the GPU-seconds received by each job at time ``now_s``.

    If a job has done more iterations than it was believed to need in all, it is assumed to need another tenth of the
    iterations done. So a policy neither ignores this job nor treats it as endless.

    Args:
        remaining: ``[J]`` result: remaining iterations of J jobs; nan if the size of the job is unknown.
        attained_gpu_s: ``[J]`` GPU-seconds that each job had received at ``since_s``; changed to those at ``now_s``.
        done: ``[J]`` iterations done.
        gpus: ``[J]`` GPUs that each job has held since ``since_s``.
        since_s: ``[J]`` when the GPU count of each job last changed.
        believed: Believed iterations of the whole job, for all rows of the ledger; nan if unknown.
        slots: ``[J]`` slot of each job: its row in ``believed``.
        now_s: The time.
    """
    for i in range(len(slots)):
        attained_gpu_s[i] += gpus[i] * (now_s - since_s[i])
        left = believed[slots[i]] - done[i]
        remaining[i] = max(0.1 * done[i], 1e-9) if left <= 0.0 else left  # nan, an unknown size, stays nan


@kernel
def advance(done: FloatArray, slots: IntArray, now_done: FloatArray) -> None:
    """Record the iterations that some jobs have done.

    Args:
        done: Iterations done, for all rows of the ledger; changed.
        slots: ``[J]`` slot of each job: its row in ``done``.
        now_done: ``[J]`` new values. A value that is nan or lower than the recorded value is ignored.
    """
    for i in range(len(slots)):
        if 0 <= slots[i] < len(done) and now_done[i] > done[slots[i]]:
            done[slots[i]] = now_done[i]


@kernel
def settle(
    held: IntArray,
    held_clock: IntArray,
    attained_gpu_s: FloatArray,
    since_s: FloatArray,
    slots: IntArray,
    gpus: IntArray,
    clock: IntArray,
    now_s: float,
) -> None:
    """Record new GPU counts and clocks of jobs, and add the GPU-seconds that the old GPU counts have received.

    Args:
        held, held_clock, attained_gpu_s, since_s: The ledger's columns ``gpus``, ``clock``, ``attained_gpu_s`` and
            ``since_s``, for all rows; changed.
        slots: ``[K]`` slot of each of K jobs: its row in the columns.
        gpus, clock: ``[K]`` new GPU counts and clock indices.
        now_s: The time. It becomes the ``since_s`` of each job whose GPU count changes.
    """
    for i in range(len(slots)):
        slot = slots[i]
        if held[slot] != gpus[i]:
            attained_gpu_s[slot] += held[slot] * (now_s - since_s[slot])
            since_s[slot] = now_s
            held[slot] = gpus[i]
        held_clock[slot] = clock[i]


class Ledger:
    """Keep all active jobs in a table. The number of a job's row is its *slot*.

    Attributes:
        rows: By slot, structured rows of dtype `JOB`. The column ``attained_gpu_s`` has the values of time ``since_s``,
            and ``remaining`` has no values. The copies that `view_rows` returns are up to date.
        believed: By slot, how many iterations the whole job is believed to need; nan if unknown.
        jobs: By slot, the job; None if the row is free.
        started: By slot, True if the job has ever held GPUs.
        uncertain: By slot, True if nobody has said how many iterations the job needs: they are unknown, or a guess.
        preempted: By slot, True if the job waits because a decision took its GPUs.
        slot_of: Slot of each job, by job id.
        projects: Names of projects. The column ``project`` of ``rows`` is a position in this list. The first name, "",
            stands for no project.
    """

    def __init__(self) -> None:
        self.rows: JobRows = np.zeros(64, JOB)
        self.believed: FloatArray = np.zeros(64)
        self.jobs: list[Job | None] = [None] * 64
        self.started: list[bool] = [False] * 64
        self.uncertain: BoolArray = np.zeros(64, np.bool_)
        self.preempted: BoolArray = np.zeros(64, np.bool_)
        self.slot_of: dict[str, int] = {}
        self.projects: list[str] = [""]
        self._codes = {"": 0}
        self._free = list(range(64))
        self._submitted = 0

    def add(
        self,
        job: Job,
        believed_iterations: float | None,
        pause_s: float,
        cost_row: int,
        now_s: float,
        unmanaged: bool = False,
        guessed: bool = False,
    ) -> int:
        """Add a job that holds no GPUs, and return its slot (the number of its row).

        Args:
            job: The job.
            believed_iterations: How many iterations the whole job is believed to need; None if unknown.
            pause_s: Seconds for which the job pauses when its GPU count changes.
            cost_row: Row of the job's class in the cost tables of its pool.
            now_s: The time.
            unmanaged: True if PowerFlow does not manage the project of the job.
            guessed: True if ``believed_iterations`` is a guess.
        """
        if not self._free:
            self._grow()
        slot = heappop(self._free)  # always the lowest, so that the same events lead to the same slots
        self.jobs[slot] = job
        self.started[slot] = self.preempted[slot] = False
        self.slot_of[job.id] = slot
        self.uncertain[slot] = guessed or believed_iterations is None
        self.believed[slot] = np.nan if believed_iterations is None else believed_iterations
        self.rows[slot] = (
            self._submitted,
            job.submit_s,
            0.0,
            np.nan,
            0.0,
            0.0,
            0.0,
            now_s,
            pause_s,
            job.weight,
            cost_row,
            job.gpus,
            job.gpus_min,
            job.gpus_max,
            0,
            0,
            self._project(job.project),
            job.protected,
            job.max_slowdown,
            unmanaged,
            job.keeps,
            job.given,
            job.gpus_allowed is not None,
        )
        self._submitted += 1
        return slot

    def remove(self, slot: int) -> None:
        """Remove the job in a slot (a row of the ledger), so that another job can get this slot."""
        del self.slot_of[self.job(slot).id]
        self.jobs[slot] = None
        heappush(self._free, slot)

    def job(self, slot: int) -> Job:
        """Return the job in a slot (a row of the ledger). The slot must be in use."""
        job = self.jobs[slot]
        assert job is not None, f"slot {slot} is free"
        return job

    def remaining(self, slot: int) -> float:
        """Return the number of iterations that the job in a slot (row of the ledger) is still expected to need.

        The result is at least 0, and ``inf`` if the size of the job is unknown.
        """
        left = float(self.believed[slot] - self.rows["done"][slot])
        return math.inf if math.isnan(left) else max(left, 0.0)

    def view_rows(self, slots: IntArray, now_s: float) -> JobRows:
        """Return a read-only copy of the rows of some jobs, with remaining work and GPU-seconds as of ``now_s``."""
        rows = pick_rows(self.rows, slots)
        bring_up_to_date(
            rows["remaining"],
            rows["attained_gpu_s"],
            rows["done"],
            rows["gpus"],
            rows["since_s"],
            self.believed,
            slots,
            now_s,
        )
        rows.flags.writeable = False
        return rows

    def give(self, slots: IntArray, gpus: IntArray, clock: IntArray, now_s: float) -> None:
        """Record the new GPU counts and clocks of K jobs, and count the GPU-seconds that they received until now.

        Args:
            slots: ``[K]`` slots (rows of the ledger).
            gpus: ``[K]`` new GPU counts; 0 for a job that loses all its GPUs.
            clock: ``[K]`` new clocks, as positions in the clocks of the pool.
            now_s: The time.
        """
        rows = self.rows
        settle(rows["gpus"], rows["clock"], rows["attained_gpu_s"], rows["since_s"], slots, gpus, clock, now_s)

    def _project(self, name: str) -> int:
        """Return the position of a project's name in ``projects``; a new name is added first."""
        code = self._codes.setdefault(name, len(self.projects))
        if code == len(self.projects):
            self.projects.append(name)
        return code

    def _grow(self) -> None:
        old = len(self.rows)
        rows = np.zeros(2 * old, JOB)
        rows[:old] = self.rows
        self.rows = rows
        self.believed = np.concatenate([self.believed, np.zeros(old)])
        self.jobs.extend([None] * old)
        self.started.extend([False] * old)
        self.uncertain = np.concatenate([self.uncertain, np.zeros(old, np.bool_)])
        self.preempted = np.concatenate([self.preempted, np.zeros(old, np.bool_)])
        self._free = list(range(old, 2 * old))
