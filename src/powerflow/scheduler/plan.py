"""Define plans, the answers of the scheduler: the changes to make, and a typed reason for each job."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple


class Why(StrEnum):
    """Kinds of reasons for the present GPUs and clock of a job. Each decision gives each job one kind."""

    STARTED = "started"
    RESUMED = "resumed"
    GROWN = "grown"
    SHRUNK = "shrunk"
    PREEMPTED = "preempted"
    RECLOCKED = "reclocked"
    MOVED = "moved"
    DRAINED = "leaves a node that is drained"
    CUT = "goes on without a node that does not answer"
    UNREACHABLE = "keeps its GPUs: its node does not answer, and it may run there"
    MOVED_TYPE = "moved to GPUs of another type"
    KEPT = "kept"
    AS_ASKED = "runs as its owner requested: PowerFlow does not manage its project"
    GIVEN_BACK = "its clock is reset: PowerFlow does not manage its project any more"
    KEPT_COST = "unchanged because rescaling costs more than it gains"
    WAITS_GPUS = "waits for GPUs"
    WAITS_BUDGET = "waits for budget"
    BUDGET_RECLOCKED = "slowed because of the energy budget"
    BUDGET_SHRUNK = "shrunk because of the energy budget"
    BUDGET_PAUSED = "paused because of the energy budget"
    BUDGET_KEPT = "has fewer GPUs or a lower clock because of the energy budget"
    CAP_RECLOCKED = "slowed because of the power cap"
    CAP_SHRUNK = "shrunk because of the power cap"
    CAP_PAUSED = "paused because of the power cap"
    CAP_KEPT = "has fewer GPUs or a lower clock because of the power cap"
    WAITS_CAP = "waits because of the power cap"
    NEVER_FITS = "cannot run here on any known GPU count"


#: Reasons of jobs that run on unchanged.
QUIET = frozenset({Why.KEPT, Why.KEPT_COST, Why.CAP_KEPT, Why.BUDGET_KEPT, Why.AS_ASKED, Why.UNREACHABLE})


class Reason(NamedTuple):
    """The reason, with numbers, why a job has its present GPUs and clock.

    Attributes:
        why: The kind of reason.
        gpus_before, gpus: GPU counts before and after the decision.
        clock_before_mhz, clock_mhz: Clocks before and after the decision, MHz; 0 while the job waits.
        beneficiary: If the job was shrunk or preempted, the id of the job that got its GPUs; "" if no job got them.
        gpu_price: Price of a GPU at the decision; 0 if the policy has no prices.
        short_of: If the job waits for GPUs, how many more free GPUs would start it.
        nodes: If the job moves, the nodes that it moves to.
        drained: If the job leaves a drained node, the drained nodes that it leaves.
    """

    why: Why
    gpus_before: int
    gpus: int
    clock_before_mhz: float
    clock_mhz: float
    beneficiary: str = ""
    gpu_price: float = 0.0
    short_of: int = 0
    nodes: tuple[str, ...] = ()
    drained: tuple[str, ...] = ()

    def sentence(self) -> str:
        """Return the reason as words for a user, such as ``shrunk from 8 to 4 GPUs for job-7``."""
        match self.why:
            case Why.STARTED | Why.RESUMED:
                return f"{self.why} on {gpus_said(self.gpus)} at {self.clock_mhz:.0f} MHz"
            case Why.MOVED_TYPE:
                return f"{self.why}: {gpus_said(self.gpus)} at {self.clock_mhz:.0f} MHz"
            case Why.GROWN | Why.SHRUNK:
                tail = f" for {self.beneficiary}" if self.beneficiary else ""
                return f"{self.why} from {self.gpus_before} to {gpus_said(self.gpus)}{tail}"
            case Why.MOVED:
                return f"{self.why} to {nodes_said(self.nodes)}"
            case Why.DRAINED:
                return f"{self._left()}: {nodes_said(self.drained)} {'is' if len(self.drained) == 1 else 'are'} drained"
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

    def _left(self) -> str:
        """Return in words what becomes of a job that leaves a drained node."""
        if not self.gpus:
            return "stopped"
        count = "" if self.gpus == self.gpus_before else f", from {self.gpus_before} to {gpus_said(self.gpus)}"
        return f"moved to {nodes_said(self.nodes)}{count}"


def nodes_said(names: Sequence[str]) -> str:
    """Return the names of nodes in words: ``node n1``, ``nodes n1 and n2``, ``nodes n1, n2 and 6 others``."""
    if len(names) < 2:
        return f"node {''.join(names)}"
    first, last = (names[:-1], names[-1]) if len(names) < 4 else (names[:2], f"{len(names) - 2} others")
    return f"nodes {', '.join(first)} and {last}"


def gpus_said(count: int) -> str:
    """Return a number of GPUs in words: ``1 GPU``, ``2 GPUs``."""
    return "1 GPU" if count == 1 else f"{count} GPUs"


class Change(NamedTuple):
    """The new allocation of one job.

    Attributes:
        job_id: The job.
        slot: The job's row in the ledger (`SchedulerState.slot`).
        pool: GPU type on which the job runs.
        gpus: GPU count from now on; 0 if the job is preempted.
        clock: Position of the new clock in the clocks of the pool.
        clock_mhz: The new clock, MHz; 0 if the job holds no GPU.
        packed: False if the job runs on more nodes than its GPU count needs.
        moved: True if the job gets other GPUs or another GPU count, which costs a pause if it runs already. False if
            only its clock changes.
        wake_s: Seconds until the nodes that are switched on for the job are up.
        reason: Why the allocation changes.
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
    """The allocation that an unmanaged job would have if PowerFlow managed its project.

    Attributes:
        pool: GPU type.
        gpus: GPU count; 0 if the job would wait.
        clock_mhz: Clock, MHz.
    """

    pool: str
    gpus: int
    clock_mhz: float


@dataclass(slots=True, eq=False)
class Plan:
    """Answer of the scheduler to one step: the changes of jobs, and the time of the next step.

    Attributes:
        now_s: When the plan was made.
        decided: False if the step only applied events, so that there is nothing to do.
        changes: What to do, in the order of the list: jobs that give up GPUs come before jobs that take GPUs, and moves
            to another GPU type come last.
        wake_s: When the scheduler must be called again at the latest; ``inf`` if only an event makes this necessary.
        gpu_price: Price of a GPU, by GPU type.
        ignored: Why some events were ignored (unknown or finished jobs, repetitions), in words.
        asleep, woken: Names of the nodes to switch off, and of the nodes to switch on.
        power_w: Watts that the cluster should draw under this plan, corrected by metered power; nan without power caps.
        cap_w: Watts that power caps on the whole cluster allow until the next decision; ``inf`` without a limit.
        watt_price: Price of a watt, in seconds per joule like λ_E: the highest price that a power cap sets on its
            nodes; 0 if no job gets fewer GPUs or a lower clock because of a power cap.
        notices: What an administrator should know, in words: power caps that cannot be met.
        early: True if the plan was made before a decision was due. Such a plan only starts waiting jobs on free GPUs
            (`powerflow.scheduler.early`); for all other jobs the last decision still holds.
        reasons: A function that returns a reason for each job that was active when the plan was made. For an early
            plan, it returns a reason for each job that the plan starts. It raises `RuntimeError` after the next step of
            the scheduler.
        wishes: A function that returns what each job of an unmanaged project would have if PowerFlow managed this
            project. It raises `RuntimeError` after the next step of the scheduler.
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
    """The allocation that a job would have if one thing were different.

    Attributes:
        limit: The thing that is different: GPUs, budget, cap, priority, protection, topology, minimum run time, rescale
            cost, slowdown or next decision.
        words: The difference in words, beginning with "if" (or "at", for the next decision).
        gpus, clock_mhz: GPU count and clock (MHz) that the job would have with this difference.
    """

    limit: str
    words: str
    gpus: int
    clock_mhz: float
