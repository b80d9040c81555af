"""Plain data that the store keeps. Units: seconds (times of day are Unix seconds), watts, joules, MHz.

An id of a job is its number as text. None means "not known" or "not yet"; in `JobUpdate` it means "leave as it is".
"""

from __future__ import annotations

from dataclasses import dataclass

from powerflow.api.job_spec import JobSpec
from powerflow.api.records import DecisionRecord, JobState
from powerflow.cost.observation import Observation

#: GPUs by node: ((node, (GPU numbers…)), …); empty where a job holds none.
Placement = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class StoredJob:
    """One job, as far as it outlives the controller.

    Attributes:
        state_since_s: When it came into the state it is in.
        started_s: When it first ran.
        steps, steps_total: Iterations done, and of how many.
        step_time_s: Seconds per iteration, lately.
        energy_j, gpu_s: What it was charged so far.
        attempts: How often it was started after it had failed.
        exit: How it ended, in plain words ("" while it has not).
        last_lines: End of its log, where it failed.
        cost_class: Jobs whose costs are learned together with this one's.
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
    """What has changed of a job since the last update; None leaves a value as it is."""

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
    """What a job is to hold, written down before anything is done about it.

    ``epoch`` rises with every new placement of the job: whoever acts on an older one is too late. A new clock for the
    same GPUs needs no new epoch.
    """

    job_id: str
    epoch: int
    gpu_type: str
    placement: Placement
    clock_mhz: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """A measured configuration: of which class, by which job, when, and over how many steps."""

    cost_class: str
    observation: Observation
    job_id: str
    time_s: float
    steps: float


@dataclass(frozen=True, slots=True)
class Charge:
    """Joules and GPU-seconds of one GPU from ``start_s`` to ``end_s``, and who pays (None: nobody, it was idle)."""

    start_s: float
    end_s: float
    uuid: str
    job_id: str | None
    energy_j: float
    gpu_s: float


@dataclass(frozen=True, slots=True)
class DecisionOutcome:
    """What came of a job, and what was expected.

    Attributes:
        jct_s, energy_j: From submission to end, and joules.
        predicted: The first decision that gave it GPUs, with what was expected then; None: nothing was.
        would: The first decision that would have, where nobody acts on it.
    """

    job_id: str
    project: str
    jct_s: float
    energy_j: float
    predicted: DecisionRecord | None
    would: DecisionRecord | None


@dataclass(frozen=True, slots=True)
class NodeState:
    """What an operator, or a failure, made of a node: up, drained, failed or asleep."""

    name: str
    state: str
    reason: str
    since_s: float
    by: str
