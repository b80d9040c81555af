"""What the scheduler answers: the changes to make, and a typed reason for every job."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Why(StrEnum):
    """Kinds of reasons, one for every job in every decision."""

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


#: Reasons that say that nothing has changed.
QUIET = frozenset({Why.KEPT, Why.KEPT_COST, Why.CAP_KEPT, Why.BUDGET_KEPT, Why.AS_ASKED})


class Reason(NamedTuple):
    """Why a job has what it has.

    Attributes:
        why: The kind.
        gpus_before, gpus: GPUs before and after the decision.
        clock_before_mhz, clock_mhz: Clocks before and after; 0 while it waits.
        beneficiary: Shrunk or preempted: the job that got the GPUs, "" if none did.
        gpu_price: What a GPU was worth at that moment (0 where the policy has no price).
        short_of: Waits for GPUs: how many more GPUs would let it start.
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
        """The reason in plain words."""
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
    """``1 GPU``, ``2 GPUs``."""
    return "1 GPU" if count == 1 else f"{count} GPUs"


class Change(NamedTuple):
    """One job's new allocation.

    Attributes:
        job_id: Which job.
        slot: Its handle (`Scheduler.slot`).
        pool: GPU type it runs on.
        gpus: GPUs from now on; 0: it is preempted.
        clock: Index of its clock in the pool's axes.
        clock_mhz: The clock, MHz; 0 when it holds no GPU.
        packed: False when it stands on more nodes than its count needs.
        moved: True when the job must stop and go on elsewhere or with another count (it pauses);
            False when only its clock changes.
        wake_s: Seconds until nodes that had to be woken for it are up.
        reason: Why.
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
    """What a job that nobody acts on would have: its pool's GPU type, GPUs (0: it would wait), and the clock, MHz."""

    pool: str
    gpus: int
    clock_mhz: float


@dataclass(slots=True, eq=False)
class Plan:
    """The answer to one step.

    Attributes:
        now_s: When it was made.
        decided: False if the step only took note of events: there is nothing to do.
        early: It was made before the next decision was due, and only lets waiting jobs take free GPUs
            (`powerflow.scheduler.early`): what was said of all others still holds.
        changes: What to do, in this order: give up, then take.
        wake_s: When the scheduler wants to be asked again at the latest; ``inf`` if only events matter.
        gpu_price: Spot price of a GPU by pool.
        ignored: Events that could not be used (unknown or finished jobs, repeats), in words.
        asleep, woken: Nodes to switch off, and nodes to switch on for this plan.
        power_w: While a power cap is known: watts that the cluster is believed to draw when the plan is carried out, as
            corrected by what was metered; nan without a cap.
        cap_w: The least that caps on the whole cluster allow until the next decision; ``inf`` if they allow all.
        watt_price: Spot price of a watt, seconds per joule as λ_E: the dearest over all scopes; 0 if no cap binds.
        notices: What an administrator should know, in words: caps that cannot be met.
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
    explain: Callable[[], Mapping[str, Reason]] = field(default=dict, repr=False)
    wish: Callable[[], Mapping[str, Wish]] = field(default=dict, repr=False)

    def reasons(self) -> Mapping[str, Reason]:
        """A reason for every job that was active when the plan was made; of an early plan, for each that starts.

        Worked out when asked for, from what the scheduler then still knows: ask before its next step.

        Raises:
            RuntimeError: If the scheduler has taken another step since.
        """
        return self.explain()

    def wishes(self) -> Mapping[str, Wish]:
        """What each job would have that nobody acts on, if somebody did.

        Raises:
            RuntimeError: As of `reasons`.
        """
        return self.wish()


@dataclass(frozen=True, slots=True)
class Otherwise:
    """What a job would have if one thing were otherwise.

    Attributes:
        limit: What is tried: GPUs, budget, cap, priority, protection, topology, minimum run time, rescale cost or
            slowdown.
        words: In words: "if …".
        gpus, clock_mhz: What it would have then.
    """

    limit: str
    words: str
    gpus: int
    clock_mhz: float
