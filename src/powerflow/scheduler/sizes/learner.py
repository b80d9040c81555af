"""Learn how much work jobs have, from completed jobs that resemble them.

What predicts the length of a job differs between clusters. On some it is the previous job with the same number of GPUs
(job arrays), on others the program or the project, and on others nothing. So jobs are grouped in several ways
(`KINDS`): all jobs together, or jobs with the same request, project, class or name. Each way predicts a length, and the
work of a new job is a mixture of lognormal distributions around these predictions:

1. A way predicts the mean logarithm of the lengths in the job's group; newer jobs have more weight in it.
2. When a job completes, the probability of its length under each way is computed. From it follow the share of the way
   in the mixture and the error of the way (online expectation maximisation, Cappé and Moulines, J. R. Stat. Soc. B,
   2009). A way that predicts well gets a large share and a small error; a way that predicts nothing loses its share.
3. If a job has run for longer than a way predicts, this way counts less for the job: only its probability of still
   longer lengths counts.
4. If an active job has run for longer than its group was expected to, the waiting jobs of the group are expected to
   last at least as long.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from dataclasses import dataclass

import numpy as np

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.job import Job
from powerflow.policy.protocol import JOB, JobRows, View
from powerflow.scheduler.sizes.kernel import alone, gittins_sizes, raise_by_active

FIRST_S = 3600.0  # expected length on the requested GPUs while no job has completed
ANY_SD = 2.0  # standard deviation of the logarithm of the length of a job that resembles no other
FIRST_SD = 1.0  # error of a way (log) before any job has completed; it counts as much as the error of one job
LEAST_SD, MOST_SD = 0.05, 5.0
DOUBT = 1.0  # standard deviation added to that of each size, because a wrong order costs more than no order
MEMORY = 50.0  # completed jobs over which shares and errors are averaged
MOST_LOG = 50.0  # largest logarithm of a number of iterations
MOST_GROUPS = 4096  # with more groups of one kind, all of them are forgotten

SECONDS, GPU_SECONDS, ITERATIONS = range(3)  # what is alike among the jobs of a group


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to say which jobs resemble each other.

    Attributes:
        unit: In which unit such jobs are equally long: seconds on the requested GPUs, GPU-seconds on the fewest GPUs,
            or iterations.
        key: Function that returns the name of a job's group; None if the job has none.
        newest: Least weight of the newest completed job in the mean of its group; with 1, only this job counts.
    """

    unit: int
    key: Callable[[Job], Hashable | None]
    newest: float


#: The first kind is all jobs: what is expected of jobs that resemble no other.
KINDS = (
    Kind(SECONDS, lambda job: "", 0.02),
    Kind(GPU_SECONDS, lambda job: "", 0.02),
    Kind(SECONDS, lambda job: job.gpus, 0.1),
    Kind(SECONDS, lambda job: job.project or None, 0.1),
    Kind(ITERATIONS, lambda job: job.cost_class, 0.1),
    Kind(SECONDS, lambda job: job.cost_class, 0.1),
    Kind(SECONDS, lambda job: (job.cost_class, job.gpus), 0.1),
    Kind(SECONDS, lambda job: (job.project, job.gpus), 1.0),
    Kind(SECONDS, lambda job: (job.project, job.name, job.gpus) if job.name else None, 1.0),
)

#: Smallest share of each way, so that a way that told nothing for months is found again if it tells the sizes of the
#: jobs of today; at last, of jobs that resemble no other.
LEAST_SHARES = np.array([*[0.002] * len(KINDS), 0.02])


class SizeLearner:
    """Learn from completed jobs, and predict the sizes of active jobs. A job's row in the ledger is its *slot*."""

    def __init__(self) -> None:
        kinds = len(KINDS)
        self._index: list[dict[Hashable, int]] = [{} for _ in KINDS]
        self._groups: IntArray = np.full((kinds, 64), -1, np.int64)  # by kind and slot
        self._alike: IntArray = np.zeros(64, np.int64)  # by slot, equal for jobs with equal expectations at first
        self._alike_index: dict[Hashable, int] = {}
        self._mean: list[FloatArray] = [np.full(1, np.nan) for _ in KINDS]  # by group
        self._seen: list[IntArray] = [np.zeros(1, np.int64) for _ in KINDS]
        # one more than kinds: jobs that resemble no other
        self._share: FloatArray = np.full(kinds + 1, 1.0 / (kinds + 1))
        self._squares: FloatArray = np.append(np.full(kinds, FIRST_SD**2), ANY_SD**2)
        self._weight: FloatArray = np.ones(kinds + 1)
        self._completed = 0
        self._entered: dict[int, Job] = {}  # by slot, jobs whose groups nobody has asked for yet

    def enter(self, slot: int, job: Job) -> None:
        """Record a job in a slot (row of the ledger). The job is new, or new in this pool."""
        self._entered[slot] = job  # its groups are only found if they are needed: this takes long

    def _find_groups(self) -> None:
        """Find the groups of all jobs that entered since the last call."""
        for slot, job in self._entered.items():
            self._put_into_groups(slot, job)
        self._entered.clear()

    def _put_into_groups(self, slot: int, job: Job) -> None:
        if slot >= self._groups.shape[1]:
            more = np.full((len(KINDS), slot + 1), -1, np.int64)
            self._groups = np.concatenate([self._groups, more], axis=1)
            self._alike = np.concatenate([self._alike, np.zeros(slot + 1, np.int64)])
        self._groups[:, slot] = groups = self._groups_of(job)
        if len(self._alike_index) >= MOST_GROUPS:
            self._forget_alike()
        key = (*groups.tolist(), job.gpus, job.gpus_min, job.cost_class, job.gpus_allowed)
        self._alike[slot] = self._alike_index.setdefault(key, len(self._alike_index))

    def _forget_alike(self) -> None:
        """Give each active job a number of its own, below the numbers that `expected` gives to running jobs."""
        self._alike_index.clear()
        self._alike[:] = -1 - len(self._alike) - np.arange(len(self._alike))

    def _groups_of(self, job: Job) -> IntArray:
        keys = [kind.key(job) for kind in KINDS]
        return np.array([-1 if key is None else self._group(k, key) for k, key in enumerate(keys)], np.int64)

    def _group(self, k: int, key: Hashable) -> int:
        index = self._index[k]
        if key not in index:
            if len(index) >= MOST_GROUPS:
                index.clear()
                self._forget_alike()
                self._groups[k] = -1
                self._mean[k][:], self._seen[k][:] = np.nan, 0
            index[key] = len(index)
            if len(index) == len(self._mean[k]):
                self._mean[k] = np.concatenate([self._mean[k], np.full(len(self._mean[k]), np.nan)])
                self._seen[k] = np.concatenate([self._seen[k], np.zeros(len(self._seen[k]), np.int64)])
        return index[key]

    def completed(self, job: Job, cost: int, iterations: float, gpu_counts: IntArray, step_time_s: FloatArray) -> None:
        """Learn from a completed job.

        Args:
            job: The job.
            cost: Row of its class in ``step_time_s``.
            iterations: How many iterations the job had.
            gpu_counts, step_time_s: As in `View`.
        """
        row = np.zeros(1, JOB)
        row["requested"], row["gpus_min"], row["cost"] = job.gpus, job.gpus_min, cost
        unit = log_units(row, gpu_counts, step_time_s)
        length = math.log(iterations) if iterations > 0.0 else math.nan
        if not (abs(length) <= MOST_LOG and np.isfinite(unit).all()):
            return
        groups = self._groups_of(job)
        center = self._centers(groups[:, None], unit)[:, 0]
        told = np.flatnonzero(~np.isnan(center))
        spread, share = self._spread()[told], self._share[told]
        error = length - center[told]
        log_density = np.log(share / spread) - 0.5 * (error / spread) ** 2
        credit = np.exp(log_density - log_density.max())
        credit /= credit.sum()
        self._completed += 1
        new = 1.0 / min(self._completed + 1.0, MEMORY)
        self._share[told] += new * (share.sum() * credit - share)
        self._share = np.maximum(self._share, LEAST_SHARES)
        self._share /= self._share.sum()
        own = told < len(KINDS)  # the spread of jobs that resemble no other stays as it is
        ways, credit, error = told[own], credit[own], error[own]
        kept = 1.0 - credit / MEMORY
        self._squares[ways] = self._squares[ways] * kept + credit * error**2
        self._weight[ways] = self._weight[ways] * kept + credit
        for k, kind in enumerate(KINDS):
            group = int(groups[k])
            if group >= 0:
                self._seen[k][group] += 1
                seen, value = int(self._seen[k][group]), length + float(unit[kind.unit, 0])
                mean = value if seen == 1 else float(self._mean[k][group])
                self._mean[k][group] = mean + max(1.0 / seen, kind.newest) * (value - mean)

    def filled_in(self, view: View, slots: IntArray, uncertain: BoolArray) -> View:
        """Return the view with expected sizes for jobs of uncertain size. ``slots`` has the slot of each job."""
        if not np.count_nonzero(uncertain):
            return view
        size, log_sd = self.expected(slots, view.jobs, view.gpu_counts, view.step_time_s)
        return view.with_jobs(expected_gpu_s=size, size_log_sd=np.where(uncertain, log_sd, 0.0))

    def expected(
        self, slots: IntArray, rows: JobRows, gpu_counts: IntArray, step_time_s: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return the sizes by which jobs are ranked, and how uncertain these sizes are.

        Args:
            slots: ``[J]`` slot of each job.
            rows: ``[J]`` row of each job.
            gpu_counts, step_time_s: As in `View`.

        Returns:
            ``[J]`` GPU-seconds on the fewest GPUs on which each job can run, at the maximum clock, and ``[J]`` the
            standard deviation of their logarithm. The GPU-seconds are ``inf`` if a job can run on no count.
        """
        self._find_groups()
        # thousands of jobs may wait, but few of them differ
        other = np.where(rows["done"] > 0.0, -1 - np.arange(len(slots)), self._alike[slots])
        _, chosen, which = np.unique(other, return_index=True, return_inverse=True)
        size, log_sd = self._expected_of_each(slots[chosen], rows[chosen], gpu_counts, step_time_s)
        return size[which], np.hypot(log_sd, DOUBT)[which]

    def _expected_of_each(
        self, slots: IntArray, rows: JobRows, gpu_counts: IntArray, step_time_s: FloatArray
    ) -> tuple[FloatArray, FloatArray]:
        """Return what `expected` returns, computed for each job."""
        unit = log_units(rows, gpu_counts, step_time_s)
        done = rows["done"]
        log_done = np.log(np.maximum(done, math.exp(-MOST_LOG)))
        groups = self._groups[:, slots]
        center = self._centers(groups, unit)
        for k, kind in enumerate(KINDS[1:], 1):
            offset, group = unit[kind.unit], groups[k]
            if kind.newest == 1.0:
                least = np.zeros(len(slots))
            else:  # the mean of many completed jobs is not refuted by one active job
                least = np.where(self._seen[k][group] > 0, np.inf, center[-1] + offset)
            raised = center[k] + offset
            raise_by_active(raised, group, least, log_done + offset, np.empty((2, len(self._mean[k]))))
            center[k] = raised - offset
        size, log_sd = np.empty(len(slots)), np.empty(len(slots))
        spread = self._spread()
        gittins_sizes(center, spread, self._share, done, size, log_sd, np.empty((3, len(spread))))
        size *= np.exp(unit[GPU_SECONDS])
        size[np.isnan(size)] = np.inf
        return size, log_sd

    def _centers(self, groups: IntArray, unit: FloatArray) -> FloatArray:
        """Return what each way predicts: ``[K + 1, J]`` logarithms of iterations; nan where it predicts nothing."""
        center = np.empty((len(KINDS) + 1, groups.shape[1]))
        for k, (kind, group) in enumerate(zip(KINDS, groups, strict=True)):
            center[k] = np.where(group >= 0, self._mean[k][group], np.nan) - unit[kind.unit]
        first = math.log(FIRST_S) if np.isnan(self._mean[0][0]) else self._mean[0][0]
        center[-1] = first - unit[SECONDS]
        return center

    def _spread(self) -> FloatArray:
        spread: FloatArray = np.clip(np.sqrt(self._squares / self._weight), LEAST_SD, MOST_SD)
        return spread


def log_units(rows: JobRows, gpu_counts: IntArray, step_time_s: FloatArray) -> FloatArray:
    """Return the logarithm of the length of an iteration in each of the three units of a `Kind`, ``[3, J]``."""
    unit = np.zeros((3, len(rows)))
    alone(rows["requested"], rows["gpus_min"], rows["cost"], gpu_counts, step_time_s, unit[SECONDS], unit[GPU_SECONDS])
    return unit
