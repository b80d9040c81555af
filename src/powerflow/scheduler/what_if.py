"""Explain one job in detail: the limit that holds it back, the changes that would help it, and its expected start.

To find out what a limit costs the job, a copy of the policy is asked about the same view without this limit.
`powerflow.scheduler.reasons` tests fewer limits in this way.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from powerflow.policy.protocol import Policy, View
from powerflow.scheduler.dry_run import on_trial
from powerflow.scheduler.plan import Otherwise, Why
from powerflow.scheduler.pool import Pool
from powerflow.scheduler.reasons import smallest_counts, with_free_energy
from powerflow.scheduler.scheduler import Scheduler
from powerflow.units import DAY_S

#: To predict when a job starts: the most ends of other jobs that are tried, and the most rows of jobs read for this.
MOST_ENDS, MOST_LOOKED_AT = 40, 6000
#: A run time that is longer than any minimum run time.
LONG_S = 30 * DAY_S
#: Factor on the priority of the job, as one thing to try.
MORE = 10.0
#: The limit of a job that will have more at the next decision: decisions are some time apart.
NEXT = "next decision"
#: The limit that a reason names.
LIMITS: Mapping[str, str] = {
    Why.WAITS_GPUS: "GPUs",
    Why.KEPT_COST: "rescale cost",
    **dict.fromkeys(
        (Why.WAITS_BUDGET, Why.BUDGET_RECLOCKED, Why.BUDGET_SHRUNK, Why.BUDGET_PAUSED, Why.BUDGET_KEPT), "budget"
    ),
    **dict.fromkeys((Why.WAITS_CAP, Why.CAP_RECLOCKED, Why.CAP_SHRUNK, Why.CAP_PAUSED, Why.CAP_KEPT), "cap"),
}


@dataclass(frozen=True, slots=True)
class Insight:
    """A detailed explanation of the present allocation of one job.

    Attributes:
        binds: The limit without which the job would have more GPUs or a higher clock; "" if there is no such limit.
        otherwise: All changes (more GPUs, another price …) that would change the job's allocation.
        start_s: When a waiting job should get GPUs if no more jobs are submitted. None if the job runs, or if its start
            cannot be predicted.
    """

    binds: str
    otherwise: Sequence[Otherwise]
    start_s: float | None


def what_if(scheduler: Scheduler, job_id: str, now_s: float, why: str = "") -> Insight:
    """Return a detailed explanation of an active job. The scheduler is not changed.

    Args:
        scheduler: The scheduler; it must know the progress of all jobs.
        job_id: The job.
        now_s: The time.
        why: The kind of reason (`Why`) that the last decision gave. If several limits hold the job back, the one that
            this reason names is returned, so that the two do not contradict each other.

    Raises:
        KeyError: No active job has this id.
    """
    slot = scheduler.slot(job_id)
    pool = next((pool for pool in scheduler.pools.values() if slot in pool.active), None)
    if pool is None:  # its node does not answer: no decision changes it
        return Insight("", (), None)
    policy = scheduler.policies[pool.gpu_type]
    view = scheduler.view(pool, now_s)
    row = pool.active.index(slot)
    has = int(view.jobs["gpus"][row]), int(view.jobs["clock"][row])
    has = has if has[0] else (0, 0)
    found: list[Otherwise] = []
    least = has
    if view.jobs["unmanaged"][row]:
        if not has[0]:
            found += _if_different(pool, "GPUs", *_with_room(policy, view, row), has)
    else:
        without_cap = following = _has(policy, view, row)
        if scheduler.caps:
            following = _following(scheduler, job_id, now_s)
        found += _if_different(pool, NEXT, "at the next decision", following, has)
        least = min(has, following)  # what it has now is news only if it is to lose it
        without = (following,) if least == following else (following, has)
        found += _if_different(pool, "cap", "if there were no power cap", without_cap, *without)
        # the policy does not know power caps: while one binds, its other answers would not be carried out
        if _binding(found, least, pool, "cap") != "cap":
            short = 0 if has[0] else _short(policy, view, row)
            for limit, words, world in _worlds(view, row, short):
                found += _if_different(pool, limit, words, _has(policy, world, row), *without)
    binds = _binding(found, least, pool, LIMITS.get(why, ""))
    if has[0] and not pool.is_packed(slot):
        nodes = len({share.node for share in pool.occupancy.placement(slot)})
        found.append(Otherwise("topology", f"if its GPUs were not on {nodes} nodes", has[0], pool.clocks_mhz[has[1]]))
        binds = binds or "topology"
    start_s = None if has[0] or binds == "cap" else _start_s(policy, view, row)
    return Insight(binds, found, start_s)


def _following(scheduler: Scheduler, job_id: str, now_s: float) -> tuple[int, int]:
    """Return the GPU count and the clock that the next decision gives to a job, under the power caps."""
    after = on_trial(scheduler, (), now_s)
    rows, slot = after.ledger.rows, after.slot(job_id)
    gpus = int(rows["gpus"][slot])
    return gpus, int(rows["clock"][slot]) if gpus else 0


def _short(policy: Policy, view: View, row: int) -> int:
    """Return how many more free GPUs a waiting job needs to start, as its reason says; 0 if it does not wait for GPUs.

    See `powerflow.scheduler.reasons.all_reasons`.
    """
    answer = copy.deepcopy(policy).decide(view)
    if answer.gpus[row]:
        return 0
    return max(0, int(smallest_counts(view)[row]) - (view.capacity - int(answer.gpus.sum())))


def _worlds(view: View, row: int, short: int) -> Iterator[tuple[str, str, View]]:
    """Yield, for one job, several views of its pool that differ in one thing from the real view.

    Args:
        view: The real view.
        row: The job's row in the view.
        short: How many more free GPUs would start the job; 0 if it runs.

    Yields:
        The limit that is different, the difference in words, and the view with this difference.
    """
    jobs = view.jobs
    if view.energy_price > 0 or view.project_price is not None or view.limit_w:
        yield "budget", "if energy were free", with_free_energy(view)
    others = jobs["protected"].copy()
    others[row] = False
    if others.any():
        yield "protection", "if no other job were protected", view.with_jobs(protected=jobs["protected"] & ~others)
    if jobs["gpus"][row]:
        since_s = jobs["since_s"].copy()
        since_s[row] = view.now_s - LONG_S
        yield "minimum run time", "if it had run longer with its present GPUs", view.with_jobs(since_s=since_s)
    if jobs["pause_s"].any():
        yield "rescale cost", "if rescaling cost nothing", view.with_jobs(pause_s=0.0)
    most = max(1, int(jobs["gpus_max"][row]) - int(jobs["gpus"][row]))
    for more in sorted({short, most} - {0}):
        gpus = "1 GPU more was" if more == 1 else f"{more} GPUs more were"
        yield "GPUs", f"if {gpus} free", replace(view, capacity=view.capacity + more)
    weight = jobs["weight"].copy()
    weight[row] *= MORE
    yield "priority", f"if it had {MORE:g} times its priority", view.with_jobs(weight=weight)
    if math.isfinite(jobs["slowdown"][row]) and not jobs["protected"][row]:
        slowdown = jobs["slowdown"].copy()
        slowdown[row] = math.inf
        yield "slowdown", "if its owner set no limit on its slowdown", view.with_jobs(slowdown=slowdown)


def _with_room(policy: Policy, view: View, row: int) -> tuple[str, tuple[int, int]]:
    """Find out how many more free GPUs would start a waiting job of an unmanaged project.

    Returns:
        The condition in words ("if 2 GPUs more were free"), and the GPU count and clock that the job would get. The
        words are "" if 64 more GPUs are not enough.
    """
    for more in (1, 2, 4, 8, 16, 32, 64):
        answer = _has(policy, replace(view, capacity=view.capacity + more), row)
        if answer[0]:
            return f"if {more} GPU{' more was' if more == 1 else 's more were'} free", answer
    return "", (0, 0)


def _has(policy: Policy, view: View, row: int) -> tuple[int, int]:
    """Return the GPU count and the clock that a copy of the policy gives the job in this row of the view."""
    answer = copy.deepcopy(policy).decide(view)
    gpus = int(answer.gpus[row])
    return gpus, int(answer.clock[row]) if gpus else 0


def _if_different(
    pool: Pool, limit: str, words: str, would: tuple[int, int], *known: tuple[int, int]
) -> list[Otherwise]:
    if would in known:
        return []
    gpus, clock = would
    return [Otherwise(limit, words, gpus, pool.clocks_mhz[clock] if gpus else 0.0)]


def _binding(found: Sequence[Otherwise], has: tuple[int, int], pool: Pool, said: str) -> str:
    """Return the first limit without which a job would have more GPUs, or equally many GPUs at a higher clock.

    The result is "" if there is no such limit.

    Args:
        found: What the job would have without each of several limits.
        has: The GPU count and clock that the job has now, or will have at the next decision if that is less.
        pool: The pool of the job.
        said: The limit that the reason of the last decision names; it goes before others.
    """
    now = has[0], pool.clocks_mhz[has[1]] if has[0] else 0.0
    binding = [each.limit for each in found if (each.gpus, each.clock_mhz) > now]
    return said if said in binding else next(iter(binding), "")


def _start_s(policy: Policy, view: View, row: int) -> float | None:
    """Predict when the waiting job in a row gets GPUs if no more jobs are submitted; None if this is not possible.

    A copy of the policy decides again at each time at which a running job is believed to end.
    """
    policy = copy.deepcopy(policy)
    number = int(view.jobs["id"][row])
    for _ in range(min(MOST_ENDS, max(4, MOST_LOOKED_AT // max(1, len(view.jobs))))):
        answer = policy.decide(view)
        jobs = view.jobs.copy()
        mine = int(np.flatnonzero(jobs["id"] == number)[0])
        if answer.gpus[mine]:
            return view.now_s
        runs = np.flatnonzero(answer.gpus)
        level = view.count_index[answer.gpus[runs]]
        step_s = view.step_time_s[jobs["cost"][runs], level, answer.clock[runs]]
        left_s = jobs["remaining"][runs] * step_s
        if not len(runs) or not np.isfinite(left_s).all():
            return None
        after_s = float(left_s.min())
        changed = answer.gpus != jobs["gpus"]
        jobs["since_s"][changed] = view.now_s
        jobs["gpus"], jobs["clock"] = answer.gpus, answer.clock
        jobs["remaining"][runs] -= after_s / step_s
        jobs["done"][runs] += after_s / step_s
        jobs["attained_gpu_s"][runs] += after_s * answer.gpus[runs]
        ended = np.zeros(len(jobs), np.bool_)
        ended[runs[left_s <= after_s * (1 + 1e-9)]] = True
        jobs = jobs[~ended]
        jobs.flags.writeable = False
        view = replace(view, now_s=view.now_s + after_s, jobs=jobs)
    return None
