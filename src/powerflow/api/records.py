"""Define records of a live cluster: plain data between the controller, the REST API and its clients.

Units: seconds (times of day are Unix seconds, UTC), watts, joules, MHz. None means "not known" or "not yet".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from powerflow.api.job_spec import JobSpec
from powerflow.errors import InputError
from powerflow.scheduler.plan import Otherwise


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
    """User who makes a request: login name and role.

    ``address`` is the network address of the request, for the audit.
    """

    user: str
    role: Role
    address: str = ""


class JobState(StrEnum):
    """State of a job. The last three states are final: each job reaches exactly one of them."""

    QUEUED = "queued"
    RUNNING = "running"
    HELD = "held"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True if the state is final, so that the job's state does not change any more."""
        return self in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


class NotFound(InputError):
    """A job, node or rank that a request names does not exist."""

    def __init__(self, what: str, *, fix: str = "") -> None:
        super().__init__(what, fix=fix, exit_code=3)


class Refused(InputError):
    """The caller may not make this change, or the present state of the job or node does not allow it."""

    def __init__(self, what: str, *, fix: str = "") -> None:
        super().__init__(what, fix=fix, exit_code=4)


class Forbidden(Refused):
    """This caller may not make this request, although another caller may."""


class Unavailable(InputError):
    """The request cannot be answered now but may succeed later: the store is locked, or the disk is full.

    Nothing was changed.
    """

    def __init__(self, what: str) -> None:
        super().__init__(what, exit_code=5)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job, as a list of jobs shows it.

    Attributes:
        id: The job's number, as text.
        gpus, gpu_type, clock_mhz, nodes: GPUs, their type and clock, and the nodes that the job has now; 0, None and ()
            while it has no GPUs.
        clock_read_mhz: Clock that was read from the job's GPUs; None if it was not read.
        power_w: Present power of the job's GPUs.
        energy_j: Energy charged to the job so far.
        reason: Why the job has its present GPUs and clock, or none, in plain words.
        progress: Share of the job's work that is done, 0 to 1.
        step_time_s: Seconds per iteration, measured recently.
        eta_s: When the job is expected to end.
        exit: How the job ended, in plain words; "" if it has not ended.
        attempts: How often the job has failed, including the last time.
        model_error: |predicted ÷ measured − 1| of the step time in the job's present configuration.
        emulated: True if the job's GPUs are emulated, so that its joules are computed, not measured.
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
    attempts: int = 0
    model_error: float | None = None
    exit: str = ""
    emulated: bool = False


@dataclass(frozen=True, slots=True)
class JobDetail:
    """One job with everything that is known about it.

    Attributes:
        record: The job as a list of jobs shows it.
        spec: The job as its user submitted it.
        gpus_held: Numbers of the job's GPUs in each node, by the node's name.
        ranks: The job's ranks whose logs are kept, running ones first: name, state, node, pid, exit code. A running
            rank that reports its phase, step and generation has these too.
        last_lines: The last lines of the job's log, if it failed.
    """

    record: JobRecord
    spec: JobSpec
    gpus_held: Mapping[str, Sequence[int]] = field(default_factory=dict)
    ranks: Sequence[Mapping[str, Any]] = ()
    last_lines: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class JobOption:
    """A configuration that a job could have, and what a step would take in it, as predicted now.

    ``cost_s`` is the cost of one step in weighted seconds, at the present GPU price and energy price
    (`docs/policies.md`).
    """

    gpus: int
    clock_mhz: float
    step_time_s: float
    power_w: float
    energy_per_step_j: float
    cost_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job has its present GPUs and clock, or none.

    Attributes:
        sentence: The reason in plain words.
        why: Kind of the reason (`powerflow.scheduler.plan.Why`).
        decided_s: When the job's present configuration was decided.
        gpu_price: Present GPU price; 0 if the policy has no price.
        energy_price: λ_E, in seconds per joule.
        now: The job's present configuration; None while it waits.
        options: Other configurations of the job, best first.
        binds: The limit without which the job would have more: GPUs, budget, cap, priority, protection, topology,
            minimum run time, rescale cost, slowdown; "" if there is none or it is not known.
        otherwise: All changes of limits or prices that would change the job's configuration.
        start_s: When the job is expected to get GPUs if no other job is submitted; None if it runs or this cannot be
            predicted.
        end_s, end_low_s, end_high_s: When the job is expected to end if its configuration does not change, and the 80 %
            interval of this time, derived from the errors of earlier predictions.
        energy_j, energy_low_j, energy_high_j: Energy that the job is expected to have used at its end, and the 80 %
            interval.
    """

    job_id: str
    sentence: str
    why: str
    decided_s: float | None
    gpu_price: float
    energy_price: float
    now: JobOption | None
    options: Sequence[JobOption]
    binds: str = ""
    otherwise: Sequence[Otherwise] = ()
    start_s: float | None = None
    end_s: float | None = None
    end_low_s: float | None = None
    end_high_s: float | None = None
    energy_j: float | None = None
    energy_low_j: float | None = None
    energy_high_j: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Expected completion time and energy of a job if its configuration stays; an unknown value is None.

    Attributes:
        jct_s, energy_j: Seconds from submission to end, and joules of the whole job.
        jct_low_s, jct_high_s, energy_low_j, energy_high_j: 80 % intervals of both values, derived from the errors of
            earlier predictions (`powerflow.scheduler.calibration`).
    """

    jct_s: float | None = None
    jct_low_s: float | None = None
    jct_high_s: float | None = None
    energy_j: float | None = None
    energy_low_j: float | None = None
    energy_high_j: float | None = None


@dataclass(frozen=True, slots=True)
class DecisionRecord(Forecast):
    """One decision on a job, with the completion time and energy expected at that time.

    ``number`` rises from decision to decision.

    Attributes:
        would: True if the decision is not carried out, because the job is unmanaged and runs as its owner asked.
        why, reason: Kind of the reason, and the reason in words.
        gpus, clock_mhz: GPU count and clock that the job has from then on; 0 while it waits.
    """

    number: int
    time_s: float
    job_id: str
    would: bool
    why: str
    reason: str
    gpus: int
    clock_mhz: float


@dataclass(frozen=True, slots=True)
class EventRecord:
    """One event of the cluster. ``number`` rises from event to event; ``fields`` are plain JSON."""

    number: int
    time_s: float
    kind: str
    job_id: str | None
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GpuRecord:
    """Present state of one GPU: the id of the job that holds it (or None), and what the GPU reports about itself.

    Attributes:
        clock_mhz: Clock at which the GPU runs.
        locked_mhz: Clock to which the GPU is locked, as it was read; None if it was set but not read.
        asked_mhz: Clock that PowerFlow asked the GPU to have; None if PowerFlow leaves the clock alone.
        out: Why the GPU is out of service; "" if it is in service.
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


@dataclass(frozen=True, slots=True)
class NodeRecord:
    """One node and its GPUs.

    Attributes:
        state: up, drained, failed or asleep.
        left_out: GPUs of the node's machine that cannot be used, each with the reason, one line each. If a machine
            counts as several nodes, only the first of them lists these GPUs.
    """

    name: str
    gpu_type: str
    state: str
    gpus: Sequence[GpuRecord]
    emulated: bool
    left_out: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Top:
    """The cluster at one moment.

    Attributes:
        gpus, gpus_busy: Number of all GPUs, and of those that jobs hold.
        power_w, jobs_power_w: Watts of all GPUs, and of those that jobs hold.
        energy_j, jobs_energy_j, idle_energy_j: Joules metered since the store was created: of all GPUs, of jobs, and of
            idle GPUs. The first is the sum of the others.
        queued, running, held: Number of jobs in each of these states.
        policy: Name of the policy that decides.
        energy_price: λ_E, in seconds per joule.
        budget: What limits energy now, in plain words.
        cap_w: Watts that power caps allow the whole cluster now; None if there is no such cap.
        watt_price: What one more watt would be worth under the power caps, in seconds per joule like λ_E; 0 if no cap
            limits the jobs.
        jobs: Running jobs, then queued jobs.
        notices: Problems that an operator should know (no right to set clocks, two meters that differ), one line each.
        next_decision_s: When the next decision is due, in Unix seconds. Until then no running job changes. None if
            nothing calls for a decision.
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


@dataclass(frozen=True, slots=True)
class Account:
    """GPU time and energy charged to a user, a project or a job in a time window.

    ``idle`` and ``total`` are accounts, too. ``cost`` is in the tariff's currency and ``co2_g`` in grams, both computed
    hour by hour. Each is None if there is no signal for it.
    """

    name: str
    jobs: int
    gpu_s: float
    energy_j: float
    mean_jct_s: float | None
    cost: float | None = None
    co2_g: float | None = None


@dataclass(frozen=True, slots=True)
class Accounts:
    """All accounts of a time window.

    Attributes:
        since_s, until_s: The window, in Unix seconds.
        by: What an account stands for: ``user``, ``project`` or ``job``.
        items: The accounts. The last but one is ``idle``, with the energy of idle GPUs; the last is ``total``.
        notes: Where ``cost`` and ``co2_g`` come from, and how much of them is computed with a fallback: one line for
            each signal.
    """

    since_s: float
    until_s: float
    by: str
    items: Sequence[Account]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Part of a rank's log: its text, and the offset of the byte after it.

    ``ended`` is True if nothing will follow.
    """

    rank: str
    text: str
    offset: int
    ended: bool
