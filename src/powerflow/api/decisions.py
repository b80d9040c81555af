"""Define the records that say what the scheduler decides about a job, and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from powerflow.scheduler.plan import Otherwise


@dataclass(frozen=True, slots=True)
class JobOption:
    """A GPU count and clock that a job has or could have, and the time, power and energy of a step.

    ``cost_s`` is what the scheduler minimises: the cost of one step in weighted seconds, at the present GPU price and
    energy price (`docs/policies.md`).
    """

    gpus: int
    clock_mhz: float
    step_time_s: float
    power_w: float
    energy_per_step_j: float
    cost_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a job has its present GPUs and clock, or no GPUs.

    Attributes:
        sentence: The reason in plain words.
        why: Kind of the reason (`powerflow.scheduler.plan.Why`).
        decided_s: When the job's present configuration was decided.
        gpu_price: Present GPU price; 0 if the policy has no price.
        energy_price: λ_E, in seconds per joule.
        now: The job's present configuration, as decided, by the cost model; None while it waits.
        options: Other configurations of the job, best first.
        binds: The limit that keeps the job from having more: GPUs, budget, cap, priority, protection, topology, minimum
            run time, rescale cost, slowdown, next decision; "" if there is none or it is not known.
        otherwise: Changes of limits or prices that would change the job's GPUs or clock.
        limits_known: True if the scheduler was asked which limits hold the job back, and has answered.
        start_s: When the job will get GPUs if no other job is submitted; None if it runs, or if this is not known.
        end_s, end_low_s, end_high_s: When the job will end if it keeps its GPUs and clock, and the 80 % interval of
            this time. The interval comes from the errors of earlier predictions. None of them is later than the end by
            the job's time limit. If it is not known how many steps a running job has, ``end_s`` is that end.
        ends_by_limit: True if ``end_s`` is the end by the job's time limit.
        energy_j, energy_low_j, energy_high_j: Energy used by the job until its end, and the 80 % interval.
        fair_share: The share of the job's project (`ShareRecord`).
        due_gpus: GPUs that the project deserved at the last decision; None if no job of any project waited for GPUs.
        measured: What a step takes now, as measured (`JobRecord.energy_per_step_now_j`); its clock is another than that
            of ``now`` while the job tries clocks. None while the job does not train.
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
    limits_known: bool = False
    start_s: float | None = None
    end_s: float | None = None
    end_low_s: float | None = None
    end_high_s: float | None = None
    ends_by_limit: bool = False
    energy_j: float | None = None
    energy_low_j: float | None = None
    energy_high_j: float | None = None
    fair_share: float = 1.0
    due_gpus: int | None = None
    measured: JobOption | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """Expected completion time and energy of a job that keeps its GPUs and clock. An unknown value is None.

    Attributes:
        jct_s, energy_j: Seconds from submission to end, and joules of the whole job.
        jct_low_s, jct_high_s, energy_low_j, energy_high_j: 80 % intervals of both values. They come from the errors of
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

    Attributes:
        number: Later decisions have higher numbers.
        would: True if the decision is only logged: the rollout stage lets the job run as its owner asked.
        why, reason: Kind of the reason, and the reason in words.
        gpus, clock_mhz: Decided GPU count and clock; 0 if the job must wait.
    """

    number: int
    time_s: float
    job_id: str
    would: bool
    why: str
    reason: str
    gpus: int
    clock_mhz: float
