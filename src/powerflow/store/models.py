"""Define the records that the store keeps. Units: seconds (times of day are Unix seconds), watts, joules, MHz.

A job's id is its number as text. None means "not known" or "not yet"; in `JobUpdate` it means "no change".
"""

from __future__ import annotations

from dataclasses import dataclass

from powerflow.api.decisions import DecisionRecord
from powerflow.api.job_spec import JobSpec
from powerflow.api.records import JobState
from powerflow.cost.observation import Observation

#: GPUs by node: ((node, (GPU numbers…)), …); empty if a job holds none.
Placement = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True, slots=True)
class StoredJob:
    """One job, as the store keeps it.

    Attributes:
        state_since_s: When the job entered its present state.
        started_s: When the job ran for the first time.
        ended_s: When the last process of the job ended. None if the job has not ended, or is completing.
        steps, steps_total: Iterations that are done, and iterations that the job needs.
        step_time_s: Seconds of one iteration, measured recently.
        energy_j, gpu_s: Joules and GPU-seconds charged to the job so far.
        failures: How often the job has failed.
        exit: How the job ended, in plain words; "" if it has not ended.
        last_lines: The last lines of the job's log, if it failed.
        cost_class: Name of the job's class. All jobs of a class are assumed to cost the same per step.
        array_id, array_task: The job's array (id of its first job), and its task number in it; None without an array.
        run_s: Seconds for which the job has run.
        start_steps, start_energy_j: ``steps`` and ``energy_j`` when the job was last started; None: not known.
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
    failures: int = 0
    reason: str = ""
    exit: str = ""
    last_lines: tuple[str, ...] = ()
    cost_class: str = ""
    array_id: str | None = None
    array_task: int | None = None
    run_s: float = 0.0
    start_steps: float | None = None
    start_energy_j: float | None = None

    @property
    def completing(self) -> bool:
        """True if the job has its final state, but processes of it may still run."""
        return self.state.ended and self.ended_s is None

    @property
    def name(self) -> str:
        """Name of the job: its owner's, or ``job-NUMBER``."""
        name = self.spec.name or f"job-{self.array_id or self.id}"
        return name if self.array_task is None else f"{name}[{self.array_task}]"


@dataclass(frozen=True, slots=True)
class JobUpdate:
    """New values of a job's fields; None means that a value has not changed."""

    job_id: str
    steps: float | None = None
    steps_total: float | None = None
    step_time_s: float | None = None
    energy_j: float | None = None
    gpu_s: float | None = None
    rescales: int | None = None
    failures: int | None = None
    reason: str | None = None
    started_s: float | None = None
    cost_class: str | None = None
    run_s: float | None = None
    start_steps: float | None = None
    start_energy_j: float | None = None


@dataclass(frozen=True, slots=True)
class Intent:
    """Desired state of a job: GPUs, clock and epoch. It is stored before the controller starts or stops any process.

    Each new placement of the job gets a higher ``epoch``, so that a late action for an older placement is recognised. A
    new clock for the same GPUs needs no new epoch.
    """

    job_id: str
    epoch: int
    gpu_type: str
    placement: Placement
    clock_mhz: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Seen:
    """One measured step time (and perhaps watts): the observation, its job, class and time, and the number of steps."""

    cost_class: str
    observation: Observation
    job_id: str
    time_s: float
    steps: float


@dataclass(frozen=True, slots=True)
class Charge:
    """Joules and GPU-seconds of one GPU from ``start_s`` to ``end_s``, and the job that used it (None: idle GPU)."""

    start_s: float
    end_s: float
    uuid: str
    job_id: str | None
    energy_j: float
    gpu_s: float


@dataclass(frozen=True, slots=True)
class DecisionOutcome:
    """The real completion time and energy of a job, and what the scheduler had predicted.

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
    """State of a node, set by an operator or by a failure: up, drained, failed or asleep."""

    name: str
    state: str
    reason: str
    since_s: float
    by: str
