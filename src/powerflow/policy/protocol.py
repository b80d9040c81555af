"""Define what a policy is given and what it returns.

A policy is any object with the attributes and the method of `Policy`. It gets a `View` of one pool of equal GPUs and
returns an `Allocation`: how many GPUs each active job gets, and at which clock. A policy does no I/O, reads no clock
and keeps no global state. So the simulator and the controller get the same answer from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from powerflow.arrays import FloatArray, IntArray

#: One row per active job, in order of submission.
JOB = np.dtype(
    [
        ("id", np.int64),  # submission number: unique, growing; ties are broken by it
        ("arrival_s", np.float64),  # when it was submitted
        ("remaining", np.float64),  # estimated remaining iterations; nan if sizes are unknown
        ("expected_gpu_s", np.float64),  # GPU-seconds by which a job of uncertain size is ranked (on its fewest GPUs)
        ("size_log_sd", np.float64),  # standard deviation of the logarithm of the size; 0 if the size is known
        ("done", np.float64),  # iterations completed
        ("attained_gpu_s", np.float64),  # GPU-seconds received so far
        ("since_s", np.float64),  # when its GPU count last changed; before the first change, when it was submitted
        ("pause_s", np.float64),  # seconds of standstill when its GPU count changes
        ("weight", np.float64),  # priority; 1 is normal
        ("cost", np.int32),  # row of its class in View.step_time_s and View.power_w
        ("requested", np.int32),  # GPUs that its owner requested
        ("gpus_min", np.int32),  # smallest count it can run on
        ("gpus_max", np.int32),  # largest count it can use
        ("gpus", np.int32),  # GPUs it holds now; 0 while it waits
        ("clock", np.int32),  # index into View.clocks_mhz while it runs
        ("project", np.int32),  # index into View.projects
        ("protected", np.bool_),  # it has a promise, which is kept whatever the policy decides
        ("slowdown", np.float64),  # largest allowed slowdown as a share (`Job.max_slowdown`); inf: unlimited
        ("unmanaged", np.bool_),  # it runs as requested, because PowerFlow does not manage its project
        ("keeps", np.bool_),  # it keeps its GPUs until it ends, because it cannot resume after a stop
        ("given", np.bool_),  # another scheduler has given it its GPUs: nobody here can take them away
        ("listed", np.bool_),  # its owner listed the counts it can run on (`Job.gpus_allowed`)
    ]
)

JobRows = npt.NDArray[np.void]

#: The same bytes without fields: numpy copies such rows whole, which is many times faster than field by field.
_WHOLE = np.dtype((np.void, JOB.itemsize))


def pick_rows(rows: JobRows, at: IntArray) -> JobRows:
    """Return a copy of some rows of a table of jobs; ``at`` lists their positions in the order wanted."""
    # made over the bytes, because ``view(JOB)`` would compare all fields of both types first
    return np.ndarray(at.shape, JOB, rows.view(_WHOLE).take(at))


@dataclass(frozen=True, slots=True, eq=False)
class Arrivals:
    """Hold the latest submissions of jobs, from which a policy can expect how many jobs will come, and how large.

    The size of a job is what it was, known or expected, when the job was submitted: GPU-seconds on the fewest GPUs on
    which it can run, at the maximum clock.

    Attributes:
        order_by: ``[A]`` size / weight of the A submissions of known size, ascending.
        weight_from: ``[A + 1]`` sum of the weights of each submission and all that follow; at last 0.
        gpu_s_up_to: ``[A]`` sum of the sizes of all submissions with at most this size / weight.
        since_s: When the first submission was, also if its size is unknown, in seconds.
    """

    order_by: FloatArray
    weight_from: FloatArray
    gpu_s_up_to: FloatArray
    since_s: float

    def with_weights_times(self, factor: float) -> Arrivals:
        """Return the same submissions with all weights multiplied by a factor."""
        return replace(self, order_by=self.order_by / factor, weight_from=self.weight_from * factor)


def arrivals(gpu_s: FloatArray, weight: FloatArray, since_s: float) -> Arrivals:
    """Return submissions as `Arrivals`, read-only.

    Args:
        gpu_s: ``[S]`` sizes of S submissions, in any order; nan or ``inf`` if unknown.
        weight: ``[S]`` their weights.
        since_s: When the first of them was.
    """
    known = np.flatnonzero(np.isfinite(gpu_s))
    order = known[np.argsort(gpu_s[known] / weight[known], kind="stable")]
    order_by = gpu_s[order] / weight[order]
    weight_from = np.append(np.cumsum(weight[order][::-1])[::-1], 0.0)
    gpu_s_up_to = np.cumsum(gpu_s[order])[np.searchsorted(order_by, order_by, side="right") - 1]
    for each in (order_by, weight_from, gpu_s_up_to):
        each.flags.writeable = False
    return Arrivals(order_by, weight_from, gpu_s_up_to, since_s)


NO_ARRIVALS = arrivals(np.empty(0), np.empty(0), 0.0)


@dataclass(slots=True, eq=False)
class View:
    """Hold the state of one pool of equal GPUs as a policy sees it. Everything, also the arrays, is read-only.

    Attributes:
        now_s: The present time, seconds.
        capacity: How many GPUs are up. An allocation must not give out more GPUs in total.
        gpus_per_node: GPUs in one node.
        gpu_counts: ``[N]`` GPU counts of the cost tables, ascending.
        count_index: ``[largest count + 1]`` for each number of GPUs, its position in ``gpu_counts``; -1 if the cost
            tables do not have this number.
        clocks_mhz: ``[F]`` clocks, ascending; the last clock is the maximum.
        step_time_s: ``[K, N, F]`` (classes × GPU counts × clocks) estimated seconds per iteration; ``inf`` where a
            class cannot run.
        power_w: ``[K, N, F]`` estimated watts of all GPUs of a job together, idle draw included.
        idle_w: Watts of a GPU that count as drawn even without a job. A job causes only the watts above this.
        jobs: ``[J]`` one structured row of dtype `JOB` for each active job.
        energy_price: Energy price λ_E for all jobs: how many seconds of mean completion time one joule is worth.
        project_price: ``[P]`` for each of P ``projects``, the price that is added to ``energy_price`` for its jobs;
            None adds nothing.
        limit_w: By name of a project, the watts that its jobs may draw, including the idle draw of the GPUs that they
            hold. The name "" stands for all jobs: the watts that they may add to the idle draw of the GPUs. A project
            that is not listed has no limit.
        sizes_known: False if it is not known how much work jobs have left (``jobs["remaining"]`` is nan).
        arrivals: The latest submissions of all jobs, also in a view of some jobs only (`of_jobs`).
        projects: Names of the projects; the first name, "", stands for no project.
        margin: ``[K, N, F]`` factors ≥ 1 by which steps may at most take longer than ``step_time_s``; None if the
            times are certain.
    """

    now_s: float
    capacity: int
    gpus_per_node: int
    gpu_counts: IntArray
    count_index: IntArray
    clocks_mhz: FloatArray
    step_time_s: FloatArray
    power_w: FloatArray
    idle_w: float
    jobs: JobRows
    energy_price: float = 0.0
    project_price: FloatArray | None = None
    limit_w: Mapping[str, float] = field(default_factory=dict)
    sizes_known: bool = True
    arrivals: Arrivals = NO_ARRIVALS
    projects: Sequence[str] = ("",)
    margin: FloatArray | None = None

    @property
    def clock_max(self) -> int:
        """Return the position of the maximum clock in ``clocks_mhz``."""
        return len(self.clocks_mhz) - 1

    @property
    def energy_prices(self) -> FloatArray:
        """Return the energy price λ_E of each job, seconds per joule: the common price plus its project's price."""
        prices = np.empty(len(self.jobs))
        prices.fill(self.energy_price)
        if self.project_price is not None:
            prices += self.project_price[self.jobs["project"]]
        return prices

    def with_jobs(self, **columns: npt.ArrayLike) -> View:
        """Return a copy of the view whose jobs have other values in some columns, such as ``pause_s=0.0``."""
        jobs = self.jobs.view(_WHOLE).copy().view(JOB)
        for name, values in columns.items():
            jobs[name] = values
        jobs.flags.writeable = False
        return replace(self, jobs=jobs)

    def of_jobs(self, chosen: npt.NDArray[np.bool_]) -> View:
        """Return a copy of the view with some jobs only; ``chosen``, ``[J]``, is true for each job to keep."""
        jobs = pick_rows(self.jobs, chosen.nonzero()[0])
        jobs.flags.writeable = False
        return replace(self, jobs=jobs)

    def nothing(self) -> Allocation:
        """Return an allocation, to be filled in, that gives each job no GPU and the maximum clock."""
        jobs = len(self.jobs)
        clock = np.empty(jobs, np.int64)
        clock.fill(self.clock_max)
        return Allocation(np.zeros(jobs, np.int64), clock)


@dataclass(slots=True, eq=False)
class Allocation:
    """Hold the answer of a policy, with one entry for each job of a view (row of ``View.jobs``).

    Attributes:
        gpus: ``[J]`` GPU count of each job: 0, or one of ``View.gpu_counts``.
        clock: ``[J]`` position of each job's clock in ``View.clocks_mhz``; without meaning where ``gpus`` is 0.
        gpu_price: What one more GPU would be worth per second, in a unit that the policy chooses; 0 if the policy has
            no prices. The unit of the policy `prices` is weighted seconds of completion time.
        worth: ``[J]`` what one iteration of each job is worth, in the same unit; None if the policy does not say it.
    """

    gpus: IntArray
    clock: IntArray
    gpu_price: float = 0.0
    worth: FloatArray | None = field(default=None)


@runtime_checkable
class Policy(Protocol):
    """Define the protocol of a policy: an object that decides how many GPUs, and which clock, each job gets.

    Attributes:
        name: The name of the policy on the command line.
        needs_sizes: True if the policy cannot work without the remaining iterations of jobs (``jobs["remaining"]``).
        period_s: Longest time between two decisions while jobs are active, seconds, for a policy with turns or rounds.
            None if only events make a new decision necessary.
    """

    name: str
    needs_sizes: bool
    period_s: float | None

    def decide(self, view: View) -> Allocation:
        """Return an allocation for all jobs of the view. The method must not change the view."""
        ...
