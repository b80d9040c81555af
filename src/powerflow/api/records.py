"""Define records of a live cluster: plain data that the controller, the REST API and its clients exchange.

Units: seconds (times of day are Unix seconds, UTC), watts, joules, MHz. None means "not known" or "not yet".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from powerflow.errors import InputError


class Role(StrEnum):
    """Role of a caller: what the caller may do. Each role may also do what the roles before it may do."""

    VIEWER = "viewer"  # read
    USER = "user"  # submit jobs, and change own ones
    OPERATOR = "operator"  # change everything

    def suffices(self, least: Role) -> bool:
        """Return True if this role may do everything that the role ``least`` may do."""
        roles = list(Role)
        return roles.index(self) >= roles.index(least)


@dataclass(frozen=True, slots=True)
class Caller:
    """User who makes a request: login name, role, and the request's network address (for the audit)."""

    user: str
    role: Role
    address: str = ""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the controller takes a caller for: the user of the token, and the role."""

    user: str
    role: Role


class JobState(StrEnum):
    """State of a job. The last three states are final."""

    QUEUED = "queued"
    RUNNING = "running"
    HELD = "held"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True if the state is final: completed, failed or cancelled."""
        return self in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


class NotFound(InputError):
    """A job, node or rank that a request names does not exist."""

    def __init__(self, what: str, *, fix: str = "") -> None:
        super().__init__(what, fix=fix, exit_code=3)


class Refused(InputError):
    """The change is not allowed: by the caller's rights, or by the present state of the job or node."""

    def __init__(self, what: str, *, fix: str = "") -> None:
        super().__init__(what, fix=fix, exit_code=4)


class Forbidden(Refused):
    """This caller may not make this request, although another caller may."""


class NotSure(Refused):
    """The change would stop jobs or cannot be kept, and its user has not said that this is meant (``sure``)."""

    def __init__(self, what: str) -> None:
        super().__init__(what, fix="to make the change all the same, repeat the request with sure: true")


class Unavailable(InputError):
    """The request failed and changed nothing, but may succeed later: the store is locked, or the disk is full."""

    def __init__(self, what: str) -> None:
        super().__init__(what, exit_code=5)


class NodeAway(InputError):
    """The answer is on a node that does not answer now. It may come back soon, or never."""

    def __init__(self, what: str, *, fix: str = "") -> None:
        super().__init__(what, fix=fix, exit_code=5)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job, as a list of jobs shows it.

    Attributes:
        id: The job's number, as text.
        completing: True while the job's processes are ending, after it was cancelled, held, preempted, or has reached
            its time limit: they may save their state (`checkpoint.grace`), and the GPUs stay the job's own.
        ended_s: When the last process of the job has ended.
        gpus, gpu_type, clock_mhz, nodes: Present number of GPUs, their type, clock and nodes. While the job has no
            GPUs: 0, None, None and ().
        clock_read_mhz: Clock that was read from the job's GPUs; None if it was not read.
        power_w: Present power of the job's GPUs.
        energy_j: Energy charged to the job so far.
        reason: Why the job has its present GPUs and clock (or no GPUs), in plain words.
        progress: Share of the job's work that is done, 0 to 1.
        step_time_s: Seconds per iteration, measured recently.
        energy_per_step_j: Energy of an iteration since the job was last started; earlier starts, whose steps may be
            lost, do not count.
        energy_per_step_now_j: Energy of an iteration now: ``power_w`` times ``step_time_s``. None while the job does
            not train.
        local_batch, accumulation: Samples of one pass of each rank, and passes of a step: as the ranks report them, or
            as PowerFlow gives them to a script; None if unknown.
        eta_s: When the job is expected to end; the same as `Explanation.end_s`.
        exit: How the job ended, in plain words; "" if it has not ended.
        failures: How often the job has failed.
        model_error: |predicted ÷ measured − 1| of the step time in the job's present configuration.
        slowdown: Share by which a step takes longer than at the highest clock on the same GPUs, both measured; None if
            they were not.
        work_by: What counts the steps of a job that reports none: "tensor cores", "memory traffic" or "cycles".
        emulated: True if the job's GPUs are emulated, so that its joules are computed, not measured.
        array_id, array_task: Id of the first job of the job's array, and the job's task number in it.
        run_s, time_limit_s: Seconds for which the job has run, and for which it may run.
        output: File that gets the job's output, too; "" if there is none. `%N` and `%t` stand for node and rank.
        notes: What will not work as its owner may hope; only in the answer to a submission or a change.
    """

    id: str
    name: str
    user: str
    project: str
    state: JobState
    priority: str
    rescale: str
    submitted_s: float
    started_s: float | None = None
    ended_s: float | None = None
    gpus_asked: str = "1"
    gpus: int = 0
    gpu_type: str | None = None
    clock_mhz: float | None = None
    clock_read_mhz: float | None = None
    nodes: tuple[str, ...] = ()
    power_w: float | None = None
    energy_j: float = 0.0
    reason: str = ""
    steps: float = 0.0
    steps_total: float | None = None
    progress: float | None = None
    step_time_s: float | None = None
    eta_s: float | None = None
    rescales: int = 0
    failures: int = 0
    model_error: float | None = None
    exit: str = ""
    emulated: bool = False
    array_id: str | None = None
    array_task: int | None = None
    run_s: float = 0.0
    time_limit_s: float | None = None
    output: str = ""
    notes: tuple[str, ...] = ()
    completing: bool = False
    energy_per_step_j: float | None = None
    energy_per_step_now_j: float | None = None
    slowdown: float | None = None
    work_by: str = ""
    local_batch: int | None = None
    accumulation: int | None = None


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One event of the cluster. Later events have a higher ``number``. ``fields`` are plain JSON.

    ``node`` is the node that the event is about, ``user`` the user who caused it; None if there is none.
    """

    number: int
    time_s: float
    kind: str
    job_id: str | None
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    node: str | None = None
    user: str | None = None


@dataclass(frozen=True, slots=True)
class GpuRecord:
    """Present state of one GPU: the id of the job that holds it (or None), and what the GPU reports about itself.

    Attributes:
        clock_mhz: Clock at which the GPU runs.
        locked_mhz: Clock to which the GPU reports that it is locked; None if this was not read.
        asked_mhz: Clock that PowerFlow has requested of the GPU; None if it has requested none.
        out: Why the GPU is out of service; "" if it is in service.
        energy_j: Energy counter of the GPU: joules since some fixed moment.
        power_limit_w: Power limit of the GPU, watts.
        read_s: When all this was read from the GPU, Unix seconds.
    """

    index: int
    uuid: str
    job_id: str | None
    power_w: float | None
    clock_mhz: float | None
    locked_mhz: float | None
    utilisation: float | None
    driver_index: int | None = None
    asked_mhz: float | None = None
    out: str = ""
    energy_j: float | None = None
    power_limit_w: float | None = None
    read_s: float | None = None


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node and its GPUs.

    Attributes:
        state: up, draining (it gets no new jobs; ranks still run on it), drained (no rank runs on it any more),
            unreachable (it does not answer; its ranks may run), failed (declared off) or asleep.
        reason, by, since_s: Why, by whom and since when it is drained; "", "" and None for a node that is not.
        left_out: One line for each GPU of the node's machine that cannot be used, with the reason. If a machine counts
            as several nodes, only the first node lists these GPUs.
    """

    name: str
    gpu_type: str
    state: str
    gpus: Sequence[GpuRecord]
    emulated: bool
    left_out: Sequence[str] = ()
    reason: str = ""
    by: str = ""
    since_s: float | None = None


@dataclass(frozen=True, slots=True)
class Top:
    """The cluster at one moment.

    Attributes:
        gpus, gpus_busy: Number of all GPUs, and of those that jobs hold.
        power_w, jobs_power_w: Watts of all GPUs, and of those that jobs hold.
        energy_j, jobs_energy_j, idle_energy_j: Joules metered since the store was created: of all GPUs, of jobs, and of
            idle GPUs. The first is the sum of the others.
        queued, running, held: Number of jobs in each of these states.
        completing: Number of jobs whose processes are ending (`JobRecord.completing`), whatever their state.
        policy: Name of the policy that decides.
        energy_price: λ_E, in seconds per joule.
        budget: What limits energy now, in plain words.
        cap_w: Watts that power caps allow the whole cluster now; None if there is no such cap.
        watt_price: Worth of one more watt under the power caps, in seconds per joule like λ_E; 0 if no cap limits jobs.
        jobs: Running jobs, then those that are completing, then queued and held jobs.
        notices: Problems that an operator should know, one line each: no right to set clocks, two meters that differ,
            ….
        next_decision_s: Time of the next decision, in Unix seconds; until then, running jobs do not change. None if no
            decision is needed.
    """

    time_s: float
    gpus: int
    gpus_busy: int
    power_w: float
    jobs_power_w: float
    energy_j: float
    jobs_energy_j: float
    idle_energy_j: float
    queued: int
    running: int
    held: int
    policy: str
    energy_price: float
    budget: str
    emulated: bool
    jobs: Sequence[JobRecord]
    notices: Sequence[str] = ()
    cap_w: float | None = None
    watt_price: float = 0.0
    next_decision_s: float | None = None
    completing: int = 0
