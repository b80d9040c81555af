"""Plans, the answers of the scheduler: the changes to make, and a typed reason for every job."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Why(StrEnum):
    """Why a job has what it has; every decision gives each job one of these."""

    STARTED = "started"
    RESUMED = "resumed"
    GROWN = "grown"
    SHRUNK = "shrunk"
    PREEMPTED = "preempted"
    RECLOCKED = "reclocked"
    MOVED = "moved"
    KEPT = "kept"
    AS_ASKED = "runs as its owner asked: PowerFlow does not act on its project"
    GIVEN_BACK = "its clock is given back: PowerFlow does not act on its project any more"
    KEPT_COST = "kept because rescaling costs more than it gains"
    WAITS_GPUS = "waits for GPUs"
    WAITS_BUDGET = "waits for budget"
    BUDGET_RECLOCKED = "slowed for the energy budget"
    BUDGET_SHRUNK = "shrunk for the energy budget"
    BUDGET_PAUSED = "paused for the energy budget"
    BUDGET_KEPT = "kept below what it would get, for the energy budget"
    CAP_RECLOCKED = "slowed for the power cap"
    CAP_SHRUNK = "shrunk for the power cap"
    CAP_PAUSED = "paused for the power cap"
    CAP_KEPT = "kept below what it would get, for the power cap"
    WAITS_CAP = "waits for the power cap"
    NEVER_FITS = "no GPU count is known on which it could run here"


#: Reasons of jobs that run on unchanged.
QUIET = frozenset({Why.KEPT, Why.KEPT_COST, Why.CAP_KEPT, Why.BUDGET_KEPT, Why.AS_ASKED})


class Reason(NamedTuple):
    """Why one job has what it has, with numbers.

    Attributes:
        why: The kind of reason.
        gpus_before, gpus: GPUs before and after the decision.
        clock_before_mhz, clock_mhz: Clocks before and after the decision; 0 while the job waits.
        beneficiary: If it was shrunk or preempted: the job that got its GPUs, "" if none did.
        gpu_price: Price of a GPU at that time; 0 if the policy has no prices.
        short_of: If it waits for GPUs: how many more are needed to start it.
    """

    why: Why
    gpus_before: int
    gpus: int
    clock_before_mhz: float
    clock_mhz: float
    beneficiary: str = ""
    gpu_price: float = 0.0
    short_of: int = 0

    def sentence(self) -> str:
        """Return the reason in plain words."""
        match self.why:
            case Why.STARTED | Why.RESUMED:
                return f"{self.why} on {gpus_said(self.gpus)} at {self.clock_mhz:.0f} MHz"
            case Why.GROWN | Why.SHRUNK:
                tail = f" for {self.beneficiary}" if self.beneficiary else ""
                return f"{self.why} from {self.gpus_before} to {gpus_said(self.gpus)}{tail}"
            case Why.PREEMPTED:
                return f"{self.why}{f' for {self.beneficiary}' if self.beneficiary else ''}"
            case Why.RECLOCKED:
                return f"{self.why} from {self.clock_before_mhz:.0f} to {self.clock_mhz:.0f} MHz"
            case Why.CAP_RECLOCKED | Why.BUDGET_RECLOCKED:
                return f"{self.why}, from {self.clock_before_mhz:.0f} to {self.clock_mhz:.0f} MHz"
            case Why.CAP_SHRUNK | Why.BUDGET_SHRUNK:
                return f"{self.why}, from {self.gpus_before} to {gpus_said(self.gpus)}"
            case Why.WAITS_GPUS:
                return f"{self.why}: {self.short_of} more would do" if self.short_of else str(self.why)
            case _:
                return str(self.why)


def gpus_said(count: int) -> str:
    """Return a number of GPUs in words: ``1 GPU``, ``2 GPUs``."""
    return "1 GPU" if count == 1 else f"{count} GPUs"


class Change(NamedTuple):
    """The new allocation of one job.

    Attributes:
        job_id: The job.
        slot: Its slot (`SchedulerState.slot`).
        pool: GPU type that it runs on.
        gpus: GPUs from now on; 0 if it is preempted.
        clock: Index of its clock in the pool's axes.
        clock_mhz: The clock, MHz; 0 if it holds no GPU.
        packed: False if it runs on more nodes than its GPU count needs.
        moved: True if the job must stop and continue on other GPUs or another number of them, which costs a pause;
            False if only its clock changes.
        wake_s: Seconds until the nodes that are switched on for it are up.
        reason: Why it changes.
    """

    job_id: str
    slot: int
    pool: str
    gpus: int
    clock: int
    clock_mhz: float
    packed: bool
    moved: bool
    wake_s: float
    reason: Reason


class Wish(NamedTuple):
    """What a job of an unmanaged project would have if it were managed: GPU type, GPUs (0: it would wait) and clock."""

    pool: str
    gpus: int
    clock_mhz: float


@dataclass(slots=True, eq=False)
class Plan:
    """The answer to one step of the scheduler.

    Attributes:
        now_s: When it was made.
        decided: False if the step only applied events: there is nothing to do.
        changes: What to do, in this order: jobs give GPUs up before others take them.
        wake_s: When the scheduler must be called again at the latest; ``inf`` if only events matter.
        gpu_price: Price of a GPU by pool.
        ignored: Why some events were ignored (unknown or finished jobs, repetitions), in words.
        asleep, woken: Nodes to switch off, and nodes to switch on for this plan.
        power_w: With a power cap: watts that the cluster should draw under this plan, corrected by metered power; nan
            without a cap.
        cap_w: Watts that caps on the whole cluster allow until the next decision; ``inf`` without a limit.
        watt_price: Price of a watt, seconds per joule as λ_E: the highest of all scopes; 0 if no cap binds.
        notices: What an administrator should know, in words: caps that cannot be met.
        early: True if it was made before a decision was due and only starts waiting jobs on free GPUs
            (`powerflow.scheduler.early`); the last decision still holds for all other jobs.
        reasons: Returns a reason for each job that was active when the plan was made; for an early plan, for each job
            that it starts. Call it before the scheduler's next step, or it raises `RuntimeError`.
        wishes: Returns what each job of an unmanaged project would have if it were managed. Call it before the
            scheduler's next step, or it raises `RuntimeError`.
    """

    now_s: float
    decided: bool
    changes: Sequence[Change]
    wake_s: float
    gpu_price: Mapping[str, float] = field(default_factory=dict)
    ignored: Sequence[str] = ()
    asleep: Sequence[str] = ()
    woken: Sequence[str] = ()
    power_w: float = math.nan
    cap_w: float = math.inf
    watt_price: float = 0.0
    notices: Sequence[str] = ()
    early: bool = False
    reasons: Callable[[], Mapping[str, Reason]] = field(default=dict, repr=False)
    wishes: Callable[[], Mapping[str, Wish]] = field(default=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Otherwise:
    """What a job would have if one thing were different.

    Attributes:
        limit: What is different: GPUs, budget, cap, priority, protection, topology, minimum run time, rescale cost or
            slowdown.
        words: The difference in words: "if …".
        gpus, clock_mhz: What the job would have then.
    """

    limit: str
    words: str
    gpus: int
    clock_mhz: float
