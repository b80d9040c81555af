"""Events: everything that can happen to a cluster, as plain data. The simulator and the controller use the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from powerflow.arrays import BoolArray, FloatArray, IntArray
from powerflow.cluster.occupancy import Placement
from powerflow.cost.table import CostTable
from powerflow.energy.terms import EnergyTerms
from powerflow.job import Job
from powerflow.scheduler.cap import PowerCap


class Ignored(Exception):
    """An event cannot be applied; the message says why."""


class SchedulerEvent:
    """Base class of the events in this module."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Submitted(SchedulerEvent):
    """A job was submitted. ``believed_iterations`` is its believed size; None if nothing is known."""

    job: Job
    believed_iterations: float | None
    pause_s: float


@dataclass(frozen=True, slots=True)
class Completed(SchedulerEvent):
    """A job has done all its work. ``iterations`` is how much that was; nan if it was not counted."""

    job_id: str
    iterations: float = math.nan


@dataclass(frozen=True, slots=True)
class Failed(SchedulerEvent):
    """A job stopped with an error. With ``retry`` it returns to the queue, with ``done`` iterations kept."""

    job_id: str
    retry: bool
    done: float = 0.0


@dataclass(frozen=True, slots=True)
class Cancelled(SchedulerEvent):
    """A job was cancelled by its owner, and holds no GPU any more."""

    job_id: str


@dataclass(frozen=True, slots=True)
class Leaving(SchedulerEvent):
    """A job is to end, but its processes still hold its GPUs. These stay reserved until the job is `Cancelled`."""

    job_id: str


@dataclass(frozen=True, slots=True, eq=False)
class Progress(SchedulerEvent):
    """Running jobs have made progress: that in ``slots[i]`` (`SchedulerState.slot`) has done ``done[i]`` iterations."""

    slots: IntArray
    done: FloatArray


@dataclass(frozen=True, slots=True)
class SizeLearned(SchedulerEvent):
    """The believed size of a job has changed, in iterations."""

    job_id: str
    iterations: float


@dataclass(frozen=True, slots=True)
class WorkLost(SchedulerEvent):
    """A running job has lost work: it started again, or from an older checkpoint, at ``done`` iterations."""

    job_id: str
    done: float


@dataclass(frozen=True, slots=True)
class PauseMeasured(SchedulerEvent):
    """The time that a job pauses when its GPU count changes is now believed to be ``pause_s``."""

    job_id: str
    pause_s: float


@dataclass(frozen=True, slots=True)
class Adopted(SchedulerEvent):
    """A job is already running, under an earlier controller; it was submitted to this scheduler just before.

    ``clock_mhz`` is the clock that it was given; the nearest clock of the pool is used.
    """

    job_id: str
    gpu_type: str
    placement: Placement
    clock_mhz: float


@dataclass(frozen=True, slots=True, eq=False)
class CostLearned(SchedulerEvent):
    """The believed cost of a class of jobs on one GPU type is new or has changed."""

    cost_class: str
    gpu_type: str
    table: CostTable


@dataclass(frozen=True, slots=True)
class NodeFailed(SchedulerEvent):
    """A node has failed. `Failed` events report the jobs that ran on it."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeDrained(SchedulerEvent):
    """A node must be emptied: no job starts on it, and running jobs move away at the next decision."""

    node: str


@dataclass(frozen=True, slots=True)
class NodeRecovered(SchedulerEvent):
    """A failed or drained node can be used again."""

    node: str


@dataclass(frozen=True, slots=True)
class GpuFailed(SchedulerEvent):
    """One GPU of a node is out of service. The job that holds it loses all its GPUs and returns to the queue."""

    node: str
    gpu: int


@dataclass(frozen=True, slots=True)
class GpuRecovered(SchedulerEvent):
    """A GPU that was out of service can be used again."""

    node: str
    gpu: int


@dataclass(frozen=True, slots=True)
class PowerCapSet(SchedulerEvent):
    """A power cap was set, for now or for later. It replaces one with the same scope and start."""

    cap: PowerCap


@dataclass(frozen=True, slots=True)
class PowerCapLifted(SchedulerEvent):
    """All power caps of a scope were lifted: those in force end now, on their ramps; later ones are deleted."""

    scope: str


@dataclass(frozen=True, slots=True)
class ClockSet(SchedulerEvent):
    """The machine's time of day was changed by ``by_s``. Power caps keep their times of day, and so start that much
    earlier on the scheduler's own clock, which has not changed.
    """

    by_s: float


@dataclass(frozen=True, slots=True, eq=False)
class PowerMetered(SchedulerEvent):
    """Power was metered: ``watts`` for the cluster, and ``job_w[i]`` for all GPUs of the job in ``slots[i]``.

    ``steady[i]`` is False while the job starts, pauses or changes its clock, so that it does not run as planned yet.
    Jobs that are not listed are taken to draw as much as idle GPUs.
    """

    watts: float
    slots: IntArray
    job_w: FloatArray
    steady: BoolArray


@dataclass(frozen=True, slots=True)
class ManagedProjects(SchedulerEvent):
    """The projects whose jobs PowerFlow manages from now on.

    Attributes:
        others: Whether it manages projects that are not listed.
        projects: By project, whether it manages that one; "" stands for jobs without a project.
    """

    others: bool = True
    projects: Mapping[str, bool] = field(default_factory=dict)

    def manages(self, project: str) -> bool:
        """Return whether PowerFlow manages the jobs of a project."""
        return self.projects.get(project, self.others)


#: Everything that `Scheduler.step` accepts.
Event = SchedulerEvent | EnergyTerms
