"""Everything that can happen to a cluster, as plain data. The same events come from both bodies."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from powerflow.arrays import FloatArray, IntArray
from powerflow.cluster.occupancy import Placement
from powerflow.cost.table import CostTable
from powerflow.energy.terms import EnergyTerms
from powerflow.job import Job
from powerflow.scheduler.cap import PowerCap


@dataclass(frozen=True, slots=True)
class Submitted:
    """A job arrived. ``believed_iterations`` is what the scheduler is told of its size; None: nothing."""

    job: Job
    believed_iterations: float | None
    pause_s: float


@dataclass(frozen=True, slots=True)
class Completed:
    """A job did all its work: so many iterations, nan where nobody counted them."""

    job_id: str
    iterations: float = math.nan


@dataclass(frozen=True, slots=True)
class Failed:
    """A job's run broke off; ``retry`` says whether it goes back to the queue, at ``done`` iterations."""

    job_id: str
    retry: bool
    done: float = 0.0


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Its owner withdrew a job."""

    job_id: str


@dataclass(frozen=True, slots=True, eq=False)
class Progress:
    """How far running jobs have come. ``slots[i]`` (see `Scheduler.slot`) has done ``done[i]`` iterations."""

    slots: IntArray
    done: FloatArray


@dataclass(frozen=True, slots=True)
class SizeLearned:
    """How much work a job has in all is known, or known better."""

    job_id: str
    iterations: float


@dataclass(frozen=True, slots=True)
class WorkLost:
    """A job that runs is not as far as was believed: it has begun again, or from an earlier checkpoint."""

    job_id: str
    done: float


@dataclass(frozen=True, slots=True)
class Adopted:
    """A job that was submitted just before is found running: a controller came back to its cluster.

    ``clock_mhz`` is the clock it was given; the nearest one of the pool's axes is taken for it.
    """

    job_id: str
    gpu_type: str
    placement: Placement
    clock_mhz: float


@dataclass(frozen=True, slots=True, eq=False)
class CostLearned:
    """The belief about what a class of jobs costs on one GPU type is new or has changed."""

    cost_class: str
    gpu_type: str
    table: CostTable


@dataclass(frozen=True, slots=True)
class NodeFailed:
    """A node is gone; what ran there is told by `Failed` events of its jobs."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeDrained:
    """A node takes no new job; what runs there may stay or is moved."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeRecovered:
    """A failed or drained node can be used again."""

    node: str


@dataclass(frozen=True, slots=True)
class GpuFailed:
    """One GPU of a node is out of service; who holds it holds nothing any more, and goes back to the queue."""

    node: str
    gpu: int


@dataclass(frozen=True, slots=True)
class GpuRecovered:
    """A GPU that was out of service can be used again."""

    node: str
    gpu: int


@dataclass(frozen=True, slots=True)
class PowerCapSet:
    """A power cap is in force or announced; it takes the place of one of the same scope and start."""

    cap: PowerCap


@dataclass(frozen=True, slots=True)
class PowerCapLifted:
    """The caps of a scope are at an end: those in force, or over within the hour, let go now (on their ramp); those to
    come are forgotten.
    """

    scope: str


@dataclass(frozen=True, slots=True)
class ClockSet:
    """The clock of the day was set by so many seconds. Power caps, which are said in its time, come as much sooner; the
    time that the scheduler is told has not moved.
    """

    by_s: float


@dataclass(frozen=True, slots=True, eq=False)
class PowerMetered:
    """What the meters say: watts of the cluster now, and of its jobs.

    ``slots[i]`` (see `Scheduler.slot`) draws ``job_w[i]`` on all its GPUs together. ``steady[i]``: it runs at the count
    and clock of the latest plan; false while it pauses, starts, or a clock is on its way. Jobs that are not listed
    are taken to draw what idle GPUs do.
    """

    watts: float
    slots: IntArray
    job_w: FloatArray
    steady: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Leaving:
    """A job is to end, but its processes still hold its GPUs: nobody gets them before it is `Cancelled`."""

    job_id: str


@dataclass(frozen=True, slots=True)
class PauseMeasured:
    """A job is now expected to stand still for so many seconds when its GPU count changes."""

    job_id: str
    pause_s: float


@dataclass(frozen=True, slots=True)
class Acting:
    """Whose jobs are acted on, from now on.

    Attributes:
        on_others: Projects that are not named.
        on: By project; "" is jobs of none.
    """

    on_others: bool = True
    on: Mapping[str, bool] = field(default_factory=dict)

    def acts(self, project: str) -> bool:
        """Whether a project's jobs are acted on."""
        return self.on.get(project, self.on_others)


Event = (
    Submitted
    | Completed
    | Failed
    | Cancelled
    | Progress
    | SizeLearned
    | WorkLost
    | Adopted
    | CostLearned
    | NodeFailed
    | NodeDrained
    | NodeRecovered
    | GpuFailed
    | GpuRecovered
    | EnergyTerms
    | Acting
    | Leaving
    | PauseMeasured
    | ClockSet
    | PowerCapSet
    | PowerCapLifted
    | PowerMetered
)
