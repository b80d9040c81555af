"""Match the jobs of a log with the jobs whose energy was measured.

Both name a job by the number of Slurm (``4711``, ``4711_3`` for a task of an array; exporters name a task by its own
number, ``4715``, which a log has as JobIDRaw). A number alone is not enough: a new database begins again with 1, and a
requeued job starts several times. So a measured run belongs to the job with its number that was submitted last before
the run began. If the log knows when the job first started and the job was not requeued, the run must have begun then.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import FloatArray
from powerflow.trace.record import Trace, TraceJob

#: How far the starts of one run may lie apart, seconds: log and watch both round, and the watch asks every 30 s.
SAME_START_S = 90.0
#: A run with readings of less than this says little about the power of its job, seconds for each GPU.
LEAST_MEASURED_S = 60.0
_QUARTER_S = 900.0  # time zones differ by quarters of an hour


@dataclass(frozen=True, slots=True)
class MeasuredRun:
    """A run of a job, with its measured energy.

    Attributes:
        id: Number of the job, as its scheduler writes it.
        start_s: When the run began, Unix seconds.
        gpu_s: GPU-seconds for which there are readings.
        energy_j, low_j, high_j: Energy of these GPU-seconds and its bounds, joules.
    """

    id: str
    start_s: float
    gpu_s: float
    energy_j: float
    low_j: float
    high_j: float


@dataclass(frozen=True, slots=True, eq=False)
class JobMatching:
    """The measured energy of the jobs of a log. All arrays are ``[J]``, in the order of the log.

    Attributes:
        gpu_s: GPU-seconds with readings; 0 for a job without any.
        energy_j, low_j, high_j: Energy of these GPU-seconds and its bounds, joules.
        log_gpu_s: GPU-seconds that each job held, by the log.
        runs: Number of measured runs.
        unmatched: Number of measured runs that belong to no job of the log.
        shift_s: By how much the starts of runs and of jobs with their numbers differ, if it is the same quarter hours
            for most of them (another time zone); 0 otherwise.
    """

    gpu_s: FloatArray
    energy_j: FloatArray
    low_j: FloatArray
    high_j: FloatArray
    log_gpu_s: FloatArray
    runs: int
    unmatched: int
    shift_s: float

    @property
    def share(self) -> float:
        """Share of the log's GPU-seconds for which there are measured joules."""
        return float(np.minimum(self.gpu_s, self.log_gpu_s).sum() / self.log_gpu_s.sum())

    @property
    def jobs(self) -> int:
        """Number of jobs with measured joules."""
        return int((self.gpu_s > 0).sum())

    @property
    def power_w(self) -> FloatArray:
        """Mean measured power of a GPU of each job, ``[J]`` watts; nan for a job without readings."""
        known = self.gpu_s > 0
        power_w: FloatArray = np.full(len(known), math.nan)
        power_w[known] = self.energy_j[known] / self.gpu_s[known]
        return power_w


def match(trace: Trace, runs: Iterable[MeasuredRun]) -> JobMatching:
    """Match the jobs of a log with measured runs; the module's text says how.

    Args:
        trace: The log; its times are Unix seconds.
        runs: The measured runs. Runs with less than `LEAST_MEASURED_S` for each GPU are left out.
    """
    numbered: dict[str, list[int]] = {}
    for i, job in enumerate(trace.jobs):
        numbered.setdefault(job.id.rpartition("/")[2], []).append(i)  # "cluster/4711": the log has several clusters
        if job.raw_id:
            numbered.setdefault(job.raw_id, []).append(i)
    sums = np.zeros((4, len(trace.jobs)))
    count = unmatched = 0
    shifts: Counter[float] = Counter()
    for run in runs:
        count += 1
        mine = numbered.get(run.id, [])
        at = _job_of(run, mine, trace.jobs)
        if at is None:
            unmatched += 1
            if len(mine) == 1:
                shifts[_shift_s(run, trace.jobs[mine[0]])] += 1
        elif run.gpu_s >= LEAST_MEASURED_S * trace.jobs[at].gpus:
            sums[:, at] += (run.gpu_s, run.energy_j, run.low_j, run.high_j)
    held_s = np.array([job.held_s * job.gpus for job in trace.jobs])
    shift_s, often = max(shifts.items(), key=lambda each: (each[1], -abs(each[0])), default=(0.0, 0))
    same = shift_s != 0 and often > 0.5 * count
    return JobMatching(sums[0], sums[1], sums[2], sums[3], held_s, count, unmatched, shift_s if same else 0.0)


def _job_of(run: MeasuredRun, candidates: Sequence[int], jobs: Sequence[TraceJob]) -> int | None:
    """Return the position of the job to which a run belongs; None if there is none."""
    before = [i for i in candidates if jobs[i].submit_s <= run.start_s + SAME_START_S]
    if not before:
        return None
    last = max(before, key=lambda i: jobs[i].submit_s)
    job = jobs[last]
    if job.wait_s is None:
        return last
    late_s = run.start_s - (job.submit_s + job.wait_s)
    if job.earlier_gpu_s > 0:
        return last if late_s >= -SAME_START_S else None
    return last if abs(late_s) <= SAME_START_S else None


def _shift_s(run: MeasuredRun, job: TraceJob) -> float:
    """Return by how many whole quarter hours a run began later than its job in the log, seconds; 0 if by none."""
    if job.wait_s is None:
        return 0.0
    late_s = run.start_s - (job.submit_s + job.wait_s)
    quarters_s = _QUARTER_S * round(late_s / _QUARTER_S)
    return quarters_s if abs(late_s - quarters_s) <= SAME_START_S else 0.0
