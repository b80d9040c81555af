"""Define plain data that the store keeps. Units: seconds (times of day are Unix seconds), watts, joules, MHz.

A job's id is its number as text. None means "not known" or "not yet"; in `JobUpdate` it means "leave the value as it
is".
"""

from __future__ import annotations

from dataclasses import dataclass

from powerflow.api.job_spec import JobSpec
from powerflow.api.records import DecisionRecord, JobState
from powerflow.cost.observation import Observation

#: GPUs by node: ((node, (GPU numbers…)), …); empty if a job holds none.
Placement = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class StoredJob:
    """The data that the store keeps of one job.

    Attributes:
        state_since_s: When the job entered its present state.
        started_s: When the job ran for the first time.
        steps, steps_total: Iterations that are done, and iterations that the job needs.
        step_time_s: Seconds of one iteration, measured recently.
        energy_j, gpu_s: Joules and GPU-seconds charged to the job so far.
        attempts: How often the job was started again after a failure.
        exit: How the job ended, in plain words; "" if it has not ended.
        last_lines: The last lines of the job's log, if it failed.
        cost_class: Name of the job's class. The costs of all jobs of a class are learned together.
    """

    id: str
    spec: JobSpec
    user: str
    state: JobState
    state_since_s: float
    submitted_s: float
    started_s: float | None = None
    ended_s: float | None = None
    steps: float = 0.0
    steps_total: float | None = None
    step_time_s: float | None = None
    energy_j: float = 0.0
    gpu_s: float = 0.0
    rescales: int = 0
    attempts: int = 0
    reason: str = ""
    exit: str = ""
    last_lines: tuple[str, ...] = ()
    cost_class: str = ""


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """Changes of a job since the previous update; None leaves a value as it is."""

    job_id: str
    steps: float | None = None
    steps_total: float | None = None
    step_time_s: float | None = None
    energy_j: float | None = None
    gpu_s: float | None = None
    rescales: int | None = None
    attempts: int | None = None
    reason: str | None = None
    started_s: float | None = None
    cost_class: str | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """Desired state of a job: GPUs, clock and epoch. It is written before the controller starts or stops any rank.

    ``epoch`` rises with every new placement of the job, so that an action for an older placement is recognised as too
    late. A new clock for the same GPUs needs no new epoch.
    """

    job_id: str
    epoch: int
    gpu_type: str
    placement: Placement
    clock_mhz: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """One observation, with its class, the job that was measured, the time, and the number of steps."""

    cost_class: str
    observation: Observation
    job_id: str
    time_s: float
    steps: float


@dataclass(frozen=True, slots=True)
class Charge:
    """Joules and GPU-seconds of one GPU from ``start_s`` to ``end_s``, and the job that used the GPU.

    The job is None if the GPU was idle.
    """

    start_s: float
    end_s: float
    uuid: str
    job_id: str | None
    energy_j: float
    gpu_s: float


@dataclass(frozen=True, slots=True)
class DecisionOutcome:
    """The real time and energy of a completed job, and the scheduler's prediction.

    Attributes:
        jct_s, energy_j: Seconds from submission to end, and joules.
        predicted: The first decision that gave the job GPUs, with its prediction; None if there was no prediction.
        would: For an unmanaged job, the first decision that would have given it GPUs; None if there is none.
    """

    job_id: str
    project: str
    jct_s: float
    energy_j: float
    predicted: DecisionRecord | None
    would: DecisionRecord | None


@dataclass(frozen=True, slots=True)
class NodeState:
    """State of a node as an operator or a failure has set it: up, drained, failed or asleep."""

    name: str
    state: str
    reason: str
    since_s: float
    by: str
