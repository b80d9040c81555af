"""All active jobs, each as one row of numbers. The row's number is the job's slot, and is used again after its end."""

from __future__ import annotations

import math
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from powerflow.arrays import FloatArray, IntArray
from powerflow.job import Job
from powerflow.kernel import kernel
from powerflow.policy.protocol import JOB, JobRows


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
    """Fill in the remaining iterations and attained GPU-seconds of jobs at ``now_s``.

    A job that has done more than its believed size is taken to need another tenth of what it has done: a policy must
    neither ignore it nor take it for endless.
    """
    for i in range(len(slots)):
        attained_gpu_s[i] += gpus[i] * (now_s - since_s[i])
        left = believed[slots[i]] - done[i]
        remaining[i] = max(0.1 * done[i], 1e-9) if left <= 0.0 else left  # nan, an unknown size, stays nan


@kernel
def advance(done: FloatArray, slots: IntArray, now_done: FloatArray) -> None:
    """Set the iterations that jobs have done in ``done``, the column of all slots; lower values and nan are ignored."""
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
    """Do the work of `Ledger.give`; the first four arguments are columns of all slots."""
    for i in range(len(slots)):
        slot = slots[i]
        if held[slot] != gpus[i]:
            attained_gpu_s[slot] += held[slot] * (now_s - since_s[slot])
            since_s[slot] = now_s
            held[slot] = gpus[i]
        held_clock[slot] = clock[i]


class Ledger:
    """All active jobs by slot.

    Attributes:
        rows: By slot, structured rows of dtype `JOB`. ``remaining`` and ``attained_gpu_s`` are those of ``since_s``;
            `view_rows` brings them up to date.
        believed: By slot, believed iterations of the whole job; nan if unknown.
        jobs: By slot, the job; None if the slot is free.
        started: By slot, whether the job has ever held GPUs.
        preempted: By slot, whether the job waits because a decision took its GPUs.
        slot_of: Slot by job id.
        projects: Names of projects; ``rows`` refers to them by position. The first is "".
    """

    def __init__(self) -> None:
        self.rows: JobRows = np.zeros(64, JOB)
        self.believed: FloatArray = np.zeros(64)
        self.jobs: list[Job | None] = [None] * 64
        self.started: list[bool] = [False] * 64
        self.preempted: npt.NDArray[np.bool_] = np.zeros(64, np.bool_)
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
    ) -> int:
        """Add a job, and return its slot."""
        if not self._free:
            self._grow()
        slot = heappop(self._free)  # always the lowest, so that the same events lead to the same slots
        self.jobs[slot] = job
        self.started[slot] = self.preempted[slot] = False
        self.slot_of[job.id] = slot
        self.believed[slot] = np.nan if believed_iterations is None else believed_iterations
        self.rows[slot] = (
            self._submitted,
            job.submit_s,
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
            job.gpus_allowed is not None,
        )
        self._submitted += 1
        return slot

    def remove(self, slot: int) -> None:
        """Remove a job, and free its slot."""
        del self.slot_of[self.job(slot).id]
        self.jobs[slot] = None
        heappush(self._free, slot)

    def job(self, slot: int) -> Job:
        """Return the job in a slot that is in use."""
        job = self.jobs[slot]
        assert job is not None, f"slot {slot} is free"
        return job

    def remaining(self, slot: int) -> float:
        """Return the iterations that a job is believed to need still, at least 0; ``inf`` if its size is unknown."""
        left = float(self.believed[slot] - self.rows["done"][slot])
        return math.inf if math.isnan(left) else max(left, 0.0)

    def view_rows(self, slots: IntArray, now_s: float) -> JobRows:
        """Return a read-only copy of the rows of some slots, brought up to date."""
        rows: JobRows = self.rows.take(slots)
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
        """Record new allocations, ``[K]`` each, and add the GPU-seconds of the old ones to ``attained_gpu_s``."""
        rows = self.rows
        settle(rows["gpus"], rows["clock"], rows["attained_gpu_s"], rows["since_s"], slots, gpus, clock, now_s)

    def _project(self, name: str) -> int:
        """Return the position of a project in ``projects``, and add the project if it is new."""
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
        self.preempted = np.concatenate([self.preempted, np.zeros(old, np.bool_)])
        self._free = list(range(old, 2 * old))
