"""Define events: everything that can happen to a cluster, as plain data.

The simulator and the live controller report the same kinds of events to the scheduler.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.cluster.occupancy import Placement
from powerflow.cluster.spec import Node
from powerflow.cost.table import CostTable
from powerflow.energy.terms import EnergyTerms
from powerflow.job import Job
from powerflow.scheduler.cap import PowerCap


class Ignored(Exception):
    """Error: the scheduler cannot apply an event. The message says why."""


class SchedulerEvent:
    """Base class of all events of the scheduler."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Submitted(SchedulerEvent):
    """Event: a job was submitted.

    Attributes:
        job: The job.
        believed_iterations: How many iterations the whole job is believed to need; None if nothing is known about it.
        pause_s: Seconds for which the job is believed to pause when its GPU count changes.
        guessed: True if nobody has said how many iterations the job needs. A policy may then rank the job by the size
            that the scheduler has learned from completed jobs, instead of ``believed_iterations``.
    """

    job: Job
    believed_iterations: float | None
    pause_s: float
    guessed: bool = False


@dataclass(frozen=True, slots=True)
class CompletedEarlier(SchedulerEvent):
    """Event: a job completed under an earlier controller; sizes of similar jobs are learned from its iterations."""

    job: Job


@dataclass(frozen=True, slots=True)
class Completed(SchedulerEvent):
    """Event: a job has done all its work.

    Attributes:
        job_id: The job.
        iterations: How many iterations the job has done in all; nan if nobody counted them.
    """

    job_id: str
    iterations: float = math.nan


@dataclass(frozen=True, slots=True)
class Failed(SchedulerEvent):
    """Event: a job stopped with an error.

    Attributes:
        job_id: The job.
        retry: True if the job returns to the queue; otherwise it has ended.
        done: With ``retry``, how many iterations of its work are kept.
    """

    job_id: str
    retry: bool
    done: float = 0.0


@dataclass(frozen=True, slots=True)
class Cancelled(SchedulerEvent):
    """Event: the owner of a job cancelled it, and the job holds no GPU any more."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Leaving(SchedulerEvent):
    """Event: a job must end, and its processes still hold GPUs.

    The GPUs stay reserved until the event `Cancelled` reports that the job holds no GPU any more.
    """

    job_id: str


@dataclass(frozen=True, slots=True, eq=False)
class Progress(SchedulerEvent):
    """Event: running jobs have done more iterations.

    Attributes:
        slots: Slot of each job: its row in the ledger (`SchedulerState.slot`).
        done: Iterations that the job in ``slots[i]`` has done since its submission.
    """

    slots: IntArray
    done: FloatArray


@dataclass(frozen=True, slots=True)
class SizeLearned(SchedulerEvent):
    """Event: the whole job is now expected to need another number of ``iterations``."""

    job_id: str
    iterations: float


@dataclass(frozen=True, slots=True)
class WorkLost(SchedulerEvent):
    """Event: a running job has lost work, because it started again or from an older checkpoint.

    Attributes:
        job_id: The job.
        done: How many iterations still count as done.
    """

    job_id: str
    done: float


@dataclass(frozen=True, slots=True)
class PauseMeasured(SchedulerEvent):
    """Event: a job is now expected to pause for ``pause_s`` seconds when its GPU count changes."""

    job_id: str
    pause_s: float


@dataclass(frozen=True, slots=True)
class Adopted(SchedulerEvent):
    """Event: a job already runs, because an earlier controller started it.

    The job must have been reported to the scheduler (`Submitted`) before this event.

    Attributes:
        job_id: The job.
        gpu_type: GPU type on which the job runs.
        placement: The GPUs that the job holds.
        clock_mhz: The clock that the earlier controller set. The scheduler uses the nearest clock of the pool.
    """

    job_id: str
    gpu_type: str
    placement: Placement
    clock_mhz: float


@dataclass(frozen=True, slots=True, eq=False)
class CostLearned(SchedulerEvent):
    """Event: a class of jobs has a new cost table on one GPU type."""

    cost_class: str
    gpu_type: str
    table: CostTable


@dataclass(frozen=True, slots=True)
class NodeFailed(SchedulerEvent):
    """Event: a node has failed. A separate `Failed` event reports each job that ran on this node."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeUnreachable(SchedulerEvent):
    """Event: a node does not answer. Its processes may run, so the GPUs that jobs hold on it stay taken.

    No job starts there. A job that holds all its GPUs on such nodes keeps them, and no decision changes it. Any other
    job goes on with the GPUs that it has on other nodes.

    Attributes:
        node: Name of the node.
        stay: Jobs that keep all their GPUs anyway: they cannot go on with fewer, or none of their nodes answers.
        absent: Jobs that have no process anywhere. They return to the queue, so that they can start elsewhere.
    """

    node: str
    stay: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class NodeAdded(SchedulerEvent):
    """Event: a node has joined the cluster. Its GPU type must be one that the cluster had from the beginning."""

    node: Node


@dataclass(frozen=True, slots=True)
class NodeGone(SchedulerEvent):
    """Event: a node has left the cluster in order. Jobs that the scheduler had placed there return to the queue."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeDrained(SchedulerEvent):
    """Event: a node must be emptied. No job starts there, and its running jobs move away at the next decision."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeRecovered(SchedulerEvent):
    """Event: a node which had failed, did not answer or was being emptied can be used again."""

    node: str


@dataclass(frozen=True, slots=True)
class GpuFailed(SchedulerEvent):
    """Event: one GPU of a node is out of service.

    The job that holds this GPU loses all its GPUs and returns to the queue.
    """

    node: str
    gpu: int


@dataclass(frozen=True, slots=True)
class GpuRecovered(SchedulerEvent):
    """Event: a GPU which was out of service can be used again."""

    node: str
    gpu: int


@dataclass(frozen=True, slots=True)
class PowerCapSet(SchedulerEvent):
    """Event: a power cap was set, for now or for later. It replaces a cap with the same set of nodes and start."""

    cap: PowerCap


@dataclass(frozen=True, slots=True)
class PowerCapLifted(SchedulerEvent):
    """Event: all power caps on one set of nodes (``scope``) were lifted.

    A cap that is in force ends now, and power rises on the ramp of this cap. A cap for a later time is deleted.
    """

    scope: str


@dataclass(frozen=True, slots=True)
class ClockSet(SchedulerEvent):
    """Event: the machine's time of day was set forward by ``by_s`` seconds (back if negative).

    Power caps keep their times of day. So they start ``by_s`` seconds earlier in the scheduler's own time, which does
    not change with the time of day.
    """

    by_s: float


@dataclass(frozen=True, slots=True, eq=False)
class PowerMetered(SchedulerEvent):
    """Event: the meters show this power.

    The GPUs of a job that is not listed are assumed to draw their idle watts.

    Attributes:
        watts: Watts of the whole cluster.
        slots: Slot of each metered job: its row in the ledger (`SchedulerState.slot`).
        job_w: Watts of all GPUs of the job in ``slots[i]``.
        steady: False for a job that starts, pauses or changes its clock, so that it does not run as planned yet.
    """

    watts: float
    slots: IntArray
    job_w: FloatArray
    steady: BoolArray


@dataclass(frozen=True, slots=True)
class ManagedProjects(SchedulerEvent):
    """Event: the projects whose jobs PowerFlow manages have changed.

    Attributes:
        others: True if PowerFlow manages the projects that are not in ``projects``.
        projects: By name of a project: True if PowerFlow manages its jobs. "" stands for jobs without a project.
    """

    others: bool = True
    projects: Mapping[str, bool] = field(default_factory=dict)

    @property
    def anybody(self) -> bool:
        """True if PowerFlow manages the jobs of at least one project."""
        return self.others or any(self.projects.values())

    def manages(self, project: str) -> bool:
        """Return True if PowerFlow manages the jobs of the project with this name."""
        return self.projects.get(project, self.others)


@dataclass(frozen=True, slots=True)
class JobUntouched(SchedulerEvent):
    """Event: a job is never managed, whatever PowerFlow does with the other jobs of its project."""

    job_id: str


@dataclass(frozen=True, slots=True)
class SharesSet(SchedulerEvent):
    """Event: operators have set shares of projects; ``shares`` has all of them by name of the project (> 0)."""

    shares: Mapping[str, float]


#: Everything that `Scheduler.step` accepts.
Event = SchedulerEvent | EnergyTerms
