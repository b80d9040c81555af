"""What a policy sees, and what it answers.

A policy is any object with the attributes and the one method of `Policy`. It is given a `View` of one pool of
equal GPUs and answers with an `Allocation`: how many GPUs each active job gets, and at which clock. It does no
I/O, reads no clock and keeps no global state, so that the simulator and the live controller get the same answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from powerflow.arrays import FloatArray, IntArray

#: One row per active job, in order of submission.
JOB = np.dtype(
    [
        ("id", np.int64),  # submission number: unique, growing; ties are broken by it
        ("arrival_s", np.float64),  # when it was submitted
        ("remaining", np.float64),  # iterations still to do, as believed; nan where sizes are unknown
        ("done", np.float64),  # iterations done so far
        ("attained_gpu_s", np.float64),  # GPU-seconds received so far
        ("since_s", np.float64),  # when its GPU count last changed (or it was submitted)
        ("pause_s", np.float64),  # seconds it stands still when its GPU count changes
        ("weight", np.float64),  # priority; 1 is normal
        ("cost", np.int32),  # its row in View.step_time_s and View.power_w
        ("requested", np.int32),  # GPUs its owner asked for
        ("gpus_min", np.int32),  # fewest it can run on
        ("gpus_max", np.int32),  # most it can use
        ("gpus", np.int32),  # GPUs it holds now; 0 while it waits
        ("clock", np.int32),  # index into View.clocks_mhz while it runs
        ("project", np.int32),  # index into View.projects: whose it is
        ("protected", np.bool_),  # what is promised to it no policy may break
        ("slowdown", np.float64),  # it may be slowed by such a share (`Job.max_slowdown`); inf: by any
        ("untouched", np.bool_),  # it runs as its owner asked: nobody acts on its project's jobs
        ("keeps", np.bool_),  # once it runs it keeps its GPUs: it cannot go on where it stopped
        ("listed", np.bool_),  # its owner lists the counts it may have (`Job.gpus_allowed`): on others it cannot run
    ]
)

JobRows = npt.NDArray[np.void]


@dataclass(slots=True, eq=False)
class View:
    """All that a policy may know about one pool of equal GPUs at one moment. Read only, its arrays too.

    Attributes:
        now_s: The moment, in seconds.
        capacity: GPUs that are up; Σ of the GPUs handed out must not exceed it.
        gpus_per_node: GPUs in one node.
        gpu_counts: ``[N]`` counts that the cost tables know, ascending.
        count_index: ``[max count + 1]`` position of a count in ``gpu_counts``, or -1 where tables do not know it.
        clocks_mhz: ``[F]`` clocks, ascending; the last is the maximum.
        step_time_s: ``[K, N, F]`` believed seconds per iteration; ``inf`` where a class cannot run.
        power_w: ``[K, N, F]`` believed watts of all n GPUs together, idle draw included.
        idle_w: Watts that one GPU draws all the same when nobody uses it: only what lies above is a job's doing.
        jobs: ``[J]`` structured rows of dtype `JOB`. Read only.
        energy_price: λ_E, seconds of mean completion time that one joule is worth, for everybody.
        project_price: ``[P]`` what is added to it for jobs of each of ``projects``; None: nothing.
        limit_w: By project, "" being all jobs: watts that they may add to idle draw (a project's: with the idle draw of
            the GPUs that they hold). What is not named has no limit.
        sizes_known: False when ``jobs["remaining"]`` holds no information (nan).
        seen_gpu_s: ``[H]`` sizes of jobs that have completed, ascending: GPU-seconds on the fewest GPUs they run on
            at the maximum clock. What is known of sizes when they are not. A new array whenever it has changed.
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
        """λ_E of each job, ``[J]``: everybody's, and what its project's budget adds."""
        prices = np.empty(len(self.jobs))
        prices.fill(self.energy_price)
        if self.project_price is not None:
            prices += self.project_price[self.jobs["project"]]
        return prices

    def nothing(self) -> Allocation:
        """An allocation that gives no job anything, at the maximum clock: a place to start from."""
        jobs = len(self.jobs)
        clock = np.empty(jobs, np.int64)
        clock.fill(self.clock_max)
        return Allocation(np.zeros(jobs, np.int64), clock)


@dataclass(slots=True, eq=False)
class Allocation:
    """A policy's answer, one entry per row of ``View.jobs``.

    Attributes:
        gpus: ``[J]`` GPUs for each job: 0, or a count of ``View.gpu_counts``.
        clock: ``[J]`` index into ``View.clocks_mhz``; without meaning where ``gpus`` is 0.
        gpu_price: What one more GPU would be worth now, in the policy's own currency (`prices`: weighted
            seconds of completion time per second); 0 where the policy has no such notion.
        worth: ``[J]`` what one iteration of each job is worth, same currency, or None.
    """

    gpus: IntArray
    clock: IntArray
    gpu_price: float = 0.0
    worth: FloatArray | None = field(default=None)


@runtime_checkable
class Policy(Protocol):
    """Decides how many GPUs, and which clock, each job gets.

    Attributes:
        name: What people call it on the command line.
        needs_sizes: True if it cannot work without ``jobs["remaining"]``.
        period_s: Ask again at least this often while jobs are active (time slices, rounds);
            None if only events matter.
    """

    name: str
    needs_sizes: bool
    period_s: float | None

    def decide(self, view: View) -> Allocation:
        """Answer with an allocation for every job of the view. Must not change the view."""
        ...
