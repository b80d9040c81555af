"""Define what a policy is given and what it returns.

A policy is any object with the attributes and the one method of `Policy`. It gets a `View` of one pool of equal GPUs
and returns an `Allocation`: how many GPUs each active job gets, and at which clock. It does no I/O, reads no clock and
keeps no global state, so the simulator and the controller get the same answer.
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
        ("done", np.float64),  # iterations completed
        ("attained_gpu_s", np.float64),  # GPU-seconds received so far
        ("since_s", np.float64),  # when its GPU count last changed (or it was submitted)
        ("pause_s", np.float64),  # seconds of standstill when its GPU count changes
        ("weight", np.float64),  # priority; 1 is normal
        ("cost", np.int32),  # its row in View.step_time_s and View.power_w
        ("requested", np.int32),  # GPUs its owner asked for
        ("gpus_min", np.int32),  # smallest count it can run on
        ("gpus_max", np.int32),  # largest count it can use
        ("gpus", np.int32),  # GPUs it holds now; 0 while it waits
        ("clock", np.int32),  # index into View.clocks_mhz while it runs
        ("project", np.int32),  # index into View.projects
        ("protected", np.bool_),  # its guarantees hold whatever the policy decides
        ("slowdown", np.float64),  # largest allowed slowdown as a share (`Job.max_slowdown`); inf: unlimited
        ("unmanaged", np.bool_),  # it runs as requested, because PowerFlow does not manage its project
        ("keeps", np.bool_),  # it keeps its GPUs until it ends, because it cannot resume after a stop
        ("listed", np.bool_),  # its owner listed the counts it can run on (`Job.gpus_allowed`)
    ]
)

JobRows = npt.NDArray[np.void]


@dataclass(slots=True, eq=False)
class View:
    """State of one pool of equal GPUs as a policy sees it. Read only, including its arrays.

    Attributes:
        now_s: The moment, in seconds.
        capacity: GPUs that are up; an allocation must not exceed it in total.
        gpus_per_node: GPUs in one node.
        gpu_counts: ``[N]`` GPU counts of the cost tables, ascending.
        count_index: ``[max count + 1]`` position of a count in ``gpu_counts``; -1 if the tables do not have it.
        clocks_mhz: ``[F]`` clocks, ascending; the last is the maximum.
        step_time_s: ``[K, N, F]`` estimated seconds per iteration; ``inf`` where a class cannot run.
        power_w: ``[K, N, F]`` estimated watts of all n GPUs together, idle draw included.
        idle_w: Watts of one unused GPU; only the draw above it is caused by a job.
        jobs: ``[J]`` structured rows of dtype `JOB`. Read only.
        energy_price: λ_E for all jobs: the seconds of mean completion time that one joule is worth.
        project_price: ``[P]`` price added for the jobs of each of ``projects``; None adds nothing.
        limit_w: By project, "" for all jobs: watts that they may add to the idle draw (for a project, with the idle
            draw of the GPUs that they hold). Projects not listed have no limit.
        sizes_known: False if ``jobs["remaining"]`` is unknown (nan).
        seen_gpu_s: ``[H]`` sizes of completed jobs, ascending: GPU-seconds on the fewest GPUs they run on, at the
            maximum clock. For policies without known sizes. It is a new array whenever it has changed.
        projects: Names of projects; the first, "", stands for none.
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
    seen_gpu_s: FloatArray = field(default_factory=lambda: np.empty(0))
    projects: Sequence[str] = ("",)

    @property
    def clock_max(self) -> int:
        """Index of the maximum clock."""
        return len(self.clocks_mhz) - 1

    @property
    def energy_prices(self) -> FloatArray:
        """λ_E of each job: the common price plus that of its project."""
        prices = np.empty(len(self.jobs))
        prices.fill(self.energy_price)
        if self.project_price is not None:
            prices += self.project_price[self.jobs["project"]]
        return prices

    def with_jobs(self, **columns: npt.ArrayLike) -> View:
        """Return a view whose ``jobs`` have other values in some columns, such as ``pause_s=0.0``."""
        jobs = self.jobs.copy()
        for name, values in columns.items():
            jobs[name] = values
        jobs.flags.writeable = False
        return replace(self, jobs=jobs)

    def of_jobs(self, chosen: npt.NDArray[np.bool_]) -> View:
        """Return a view of some jobs only; ``chosen`` is ``[J]``."""
        jobs = self.jobs[chosen]
        jobs.flags.writeable = False
        return replace(self, jobs=jobs)

    def nothing(self) -> Allocation:
        """Return an allocation without any GPUs, at the maximum clock, as a starting point."""
        jobs = len(self.jobs)
        clock = np.empty(jobs, np.int64)
        clock.fill(self.clock_max)
        return Allocation(np.zeros(jobs, np.int64), clock)


@dataclass(slots=True, eq=False)
class Allocation:
    """Answer of a policy, with one entry per row of ``View.jobs``.

    Attributes:
        gpus: ``[J]`` GPUs for each job: 0, or a count of ``View.gpu_counts``.
        clock: ``[J]`` index into ``View.clocks_mhz``; meaningless where ``gpus`` is 0.
        gpu_price: Value of one more GPU, in the policy's own unit (`prices`: weighted seconds of completion time per
            second); 0 if the policy has none.
        worth: ``[J]`` value of one iteration of each job, in the same unit, or None.
    """

    gpus: IntArray
    clock: IntArray
    gpu_price: float = 0.0
    worth: FloatArray | None = field(default=None)


@runtime_checkable
class Policy(Protocol):
    """Protocol of an object that decides how many GPUs, and which clock, each job gets.

    Attributes:
        name: Its name on the command line.
        needs_sizes: True if it cannot work without ``jobs["remaining"]``.
        period_s: Longest time between two decisions while jobs are active (time slices, rounds); None if only events
            matter.
    """

    name: str
    needs_sizes: bool
    period_s: float | None

    def decide(self, view: View) -> Allocation:
        """Return an allocation for every job of the view. Must not change the view."""
        ...
