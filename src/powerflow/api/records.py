"""Records of a live cluster: plain data between the controller, the REST API and its clients.

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
    """What a caller may do. Each role may also do what the one before may."""

    VIEWER = "viewer"  # read
    USER = "user"  # submit jobs, and change own ones
    OPERATOR = "operator"  # change everything

    def suffices(self, least: Role) -> bool:
        """Return whether this role may do what takes at least another one."""
        roles = list(Role)
        return roles.index(self) >= roles.index(least)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a request: a login name and a role; ``address`` is where it comes from, for the audit."""

    user: str
    role: Role
    address: str = ""


class JobState(StrEnum):
    """State of a job. The last three are ends: each job reaches exactly one of them."""

    QUEUED = "queued"
    RUNNING = "running"
    HELD = "held"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether the job has ended; its state does not change any more."""
        return self in (JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED)


class NotFound(InputError):
    """There is no such job, node or rank."""

    def __init__(self, what: str, *, fix: str = "") -> None:
        super().__init__(what, fix=fix, exit_code=3)


class Refused(InputError):
    """The caller may not do this, or the thing is not in a state for it."""

    def __init__(self, what: str, *, fix: str = "") -> None:
        super().__init__(what, fix=fix, exit_code=4)


class Forbidden(Refused):
    """This caller may not do this; another one may."""


class Unavailable(InputError):
    """It cannot be done now and may be later: the store is locked, the disk is full. Nothing was changed."""

    def __init__(self, what: str) -> None:
        super().__init__(what, exit_code=5)


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job, as a list shows it.

    Attributes:
        id: Its number, as text.
        gpus, gpu_type, clock_mhz, nodes: What it holds now; 0, None and () while it holds nothing.
        clock_read_mhz: Clock that was read from its GPUs; None where it was not read.
        power_w: Power of its GPUs now.
        energy_j: Energy that it was charged so far.
        reason: Why it has what it has, in plain words.
        progress: Share of its work that is done, 0 to 1.
        step_time_s: Seconds per iteration, lately.
        eta_s: When it is expected to end.
        exit: How it ended, in plain words ("" while it has not).
        attempts: How often it has failed, the last time included.
        model_error: |predicted ÷ measured − 1| of its step time where it runs now.
        emulated: True when its GPUs are emulated, and its joules with them.
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
    """One job with everything that is known of it.

    Attributes:
        record: As in lists.
        spec: As it was submitted.
        gpus_held: By node, the numbers of the GPUs it holds.
        ranks: Those whose logs are kept, running ones first: name, state, node, pid, code; phase, step and generation
            of those that run and say so.
        last_lines: End of its log, where it failed.
    """

    record: JobRecord
    spec: JobSpec
    gpus_held: Mapping[str, Sequence[int]] = field(default_factory=dict)
    ranks: Sequence[Mapping[str, Any]] = ()
    last_lines: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class JobOption:
    """A configuration that a job could have, and what a step would cost in it, as predicted now.

    ``cost_s`` is the cost of one step at the prices of a GPU and a joule, in weighted seconds (`docs/policies.md`).
    """

    gpus: int
    clock_mhz: float
    step_time_s: float
    power_w: float
    energy_per_step_j: float
    cost_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job has what it has.

    Attributes:
        sentence: In plain words.
        why: Kind of reason (`powerflow.scheduler.plan.Why`).
        decided_s: When that was decided.
        gpu_price: What a GPU is worth now (0 where the policy has no price).
        energy_price: λ_E, seconds per joule.
        now: What it has; None while it waits.
        options: Best other configurations, best first.
        binds: The limit without which it would have more: GPUs, budget, cap, priority, protection, topology, minimum
            run time, rescale cost, slowdown; "": none, or not known.
        otherwise: Everything that would change what it has.
        start_s: When it is expected to get GPUs, if nobody else comes; None where it runs, or that is not to be seen.
        end_s, end_low_s, end_high_s: When it is expected to end if it goes on like this, and between when with a
            probability of 80 %, as far as earlier predictions tell.
        energy_j, energy_low_j, energy_high_j: What it is expected to have used then.
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
    """What is expected of a job if it goes on as it is; None: nothing can be said.

    Attributes:
        jct_s, energy_j: From submission to end, and joules in all.
        jct_low_s, jct_high_s, energy_low_j, energy_high_j: Between these with a probability of 80 %, as far as earlier
            predictions tell (`powerflow.scheduler.calibration`).
    """

    jct_s: float | None = None
    jct_low_s: float | None = None
    jct_high_s: float | None = None
    energy_j: float | None = None
    energy_low_j: float | None = None
    energy_high_j: float | None = None


@dataclass(frozen=True, slots=True)
class DecisionRecord(Forecast):
    """What was decided for a job, and what was expected of it then. ``number`` rises.

    Attributes:
        would: It is what would have been decided: nobody acts on the job's project, so that it runs as asked.
        why, reason: The kind of reason, and the reason in words.
        gpus, clock_mhz: What it has from then on; 0 while it waits.
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
    """One thing that happened. ``number`` rises; ``fields`` are plain JSON."""

    number: int
    time_s: float
    kind: str
    job_id: str | None
    text: str
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GpuRecord:
    """One GPU now: who holds it (job id or None), and what it says of itself.

    Attributes:
        clock_mhz: What it runs at.
        locked_mhz: The clock it is locked to, as far as that was read; None while it only was asked for.
        asked_mhz: The clock that it was asked for; None where it is left alone.
        out: Why it is out of service; "" if it is in.
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
    """One node.

    Attributes:
        state: up, drained, failed or asleep.
        left_out: GPUs of its machine that cannot be used, and why, one line each; of the machine's first node.
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
        gpus, gpus_busy: GPUs there are and GPUs that jobs hold.
        power_w, jobs_power_w: Watts of all GPUs, and of those that jobs hold.
        energy_j, jobs_energy_j, idle_energy_j: Joules metered since the store was made; jobs + idle = metered.
        queued, running, held: Jobs.
        policy: Who decides.
        energy_price: λ_E, seconds per joule.
        budget: What limits energy now, in plain words.
        cap_w: What a power cap allows the whole cluster now; None where none does.
        watt_price: What one more watt would be worth under the caps, seconds per joule as λ_E; 0 where none binds.
        jobs: Running ones, then queued ones.
        notices: What an operator should know (no right to set clocks, a meter that disagrees), one line each.
        next_decision_s: When the next decision is due, seconds since the epoch; until then no running job changes.
            None where nothing calls for one.
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
    """What a user, a project or a job was charged in a window; ``idle`` and ``total`` are accounts too.

    ``cost`` is in the tariff's money and ``co2_g`` in grams, hour by hour; None where there is no such signal.
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
    """Accounts of a window of time.

    Attributes:
        since_s, until_s: The window, Unix seconds.
        by: What each account is of: ``user``, ``project`` or ``job``.
        items: One for each; then ``idle``, which no job was charged, and ``total``.
        notes: Where ``cost`` and ``co2_g`` come from, and how much of them is a fallback: a line for each signal.
    """

    since_s: float
    until_s: float
    by: str
    items: Sequence[Account]
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class LogChunk:
    """Part of a log: text, and the offset after it. ``ended``: nothing will follow."""

    rank: str
    text: str
    offset: int
    ended: bool
