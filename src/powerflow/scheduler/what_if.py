"""Why one job has what it has, looked into: which limit binds, what would change it, and when it is expected to start.

Each limit is tried by asking the same policy about a world without it (as in `powerflow.scheduler.reasons`, but more
of them, and for one job): what then comes out otherwise for the job is what that limit costs it. It is a copy of the
policy that is asked, so that asking leaves no trace.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from powerflow.policy.protocol import Policy, View
from powerflow.scheduler.plan import Otherwise
from powerflow.scheduler.pool import Pool
from powerflow.scheduler.scheduler import Scheduler
from powerflow.units import DAY_S

#: A start is looked for over so many ends of other jobs, fewer where there are many jobs.
MOST_ENDS, MOST_LOOKED_AT = 40, 6000
#: As long as this, a job has run long enough.
LONG_S = 30 * DAY_S
#: Priority that is tried, times its own.
MORE = 10.0


@dataclass(frozen=True, slots=True)
class Insight:
    """What can be said of a job.

    Attributes:
        binds: The limit without which it would have more; "": none, it has what is best for all at these prices.
        otherwise: Everything that would change what it has.
        start_s: When it is expected to get GPUs, if it waits: as the policy would go on if nobody else came; None where
            it runs, or where that is not to be seen.
    """

    binds: str
    otherwise: Sequence[Otherwise]
    start_s: float | None


def insight(scheduler: Scheduler, job_id: str, now_s: float) -> Insight:
    """Look into an active job.

    Args:
        scheduler: Nothing of it changes.
        job_id: Which job.
        now_s: The present.

    Raises:
        KeyError: No active job has this name.
    """
    slot = scheduler.slot(job_id)
    pool = next(pool for pool in scheduler.pools.values() if slot in pool.active)
    policy = scheduler.policies[pool.gpu_type]
    view = scheduler.view(pool, now_s)
    row = pool.active.index(slot)
    has = int(view.jobs["gpus"][row]), int(view.jobs["clock"][row])
    base = (0, 0) if view.jobs["untouched"][row] else _has(policy, view, row)
    found: list[Otherwise] = []
    binds = ""
    if scheduler.caps and not view.jobs["untouched"][row]:
        found += _told(pool, "cap", "if there were no power cap", base, has)
        binds = _binding(found, has, pool)
    # the policy knows nothing of caps: where one binds, what it says of other worlds would not come true
    if not binds and not view.jobs["untouched"][row]:
        for limit, words, world in _worlds(view, row):
            found += _told(pool, limit, words, _has(policy, world, row), base)
    elif not binds and not has[0]:
        found += _told(pool, "GPUs", *_with_room(policy, view, row), base)
    binds = binds or _binding(found, base, pool)
    if has[0] and not pool.is_packed(slot):
        nodes = len({share.node for share in pool.occupancy.placement(slot)})
        found.append(Otherwise("topology", f"if its GPUs were not on {nodes} nodes", has[0], pool.clocks_mhz[has[1]]))
        binds = binds or "topology"
    start_s = None if has[0] or binds == "cap" else _start_s(policy, view, row)
    return Insight(binds, found, start_s)


def _worlds(view: View, row: int) -> Iterator[tuple[str, str, View]]:
    """Worlds in which one thing is otherwise: its limit, in words, and what the policy would see."""
    jobs = view.jobs
    if view.energy_price > 0 or view.project_price is not None or view.limit_w:
        yield "budget", "if energy were free", replace(view, energy_price=0.0, project_price=None, limit_w={})
    others = jobs["protected"].copy()
    others[row] = False
    if others.any():
        yield "protection", "if no other job were protected", _with(view, protected=jobs["protected"] & ~others)
    if jobs["gpus"][row]:
        since_s = jobs["since_s"].copy()
        since_s[row] = view.now_s - LONG_S
        yield "minimum run time", "if it had run like this for longer", _with(view, since_s=since_s)
    if jobs["pause_s"].any():
        yield "rescale cost", "if rescaling cost nothing", _with(view, pause_s=np.zeros(len(jobs)))
    more = max(1, int(jobs["gpus_max"][row]) - int(jobs["gpus"][row]))
    gpus = "1 GPU more was" if more == 1 else f"{more} GPUs more were"
    yield "GPUs", f"if {gpus} free", replace(view, capacity=view.capacity + more)
    weight = jobs["weight"].copy()
    weight[row] *= MORE
    yield "priority", f"if it had {MORE:g} times its priority", _with(view, weight=weight)
    if math.isfinite(jobs["slowdown"][row]) and not jobs["protected"][row]:
        slowdown = jobs["slowdown"].copy()
        slowdown[row] = math.inf
        yield "slowdown", "if its owner set no bound on how far it may be slowed", _with(view, slowdown=slowdown)


def _with_room(policy: Policy, view: View, row: int) -> tuple[str, tuple[int, int]]:
    """How many GPUs more a job that is only watched would need, and what it would have then."""
    for more in (1, 2, 4, 8, 16, 32, 64):
        answer = _has(policy, replace(view, capacity=view.capacity + more), row)
        if answer[0]:
            return f"if {more} GPU{' more was' if more == 1 else 's more were'} free", answer
    return "", (0, 0)


def _with(view: View, **columns: np.ndarray) -> View:
    jobs = view.jobs.copy()
    for name, values in columns.items():
        jobs[name] = values
    jobs.flags.writeable = False
    return replace(view, jobs=jobs)


def _has(policy: Policy, view: View, row: int) -> tuple[int, int]:
    """GPUs and clock that the policy gives a job, asked without leaving a trace."""
    answer = copy.deepcopy(policy).decide(view)
    gpus = int(answer.gpus[row])
    return gpus, int(answer.clock[row]) if gpus else 0


def _told(pool: Pool, limit: str, words: str, would: tuple[int, int], has: tuple[int, int]) -> list[Otherwise]:
    if would == has:
        return []
    gpus, clock = would
    return [Otherwise(limit, words, gpus, pool.clocks_mhz[clock] if gpus else 0.0)]


def _binding(found: Sequence[Otherwise], has: tuple[int, int], pool: Pool) -> str:
    """The first limit without which the job would have more GPUs than this, or else a higher clock."""
    now = has[0], pool.clocks_mhz[has[1]] if has[0] else 0.0
    return next((each.limit for each in found if (each.gpus, each.clock_mhz) > now), "")


def _start_s(policy: Policy, view: View, row: int) -> float | None:
    """When a job that waits gets GPUs, if all goes on as believed and nobody else comes.

    From end to end of the jobs that run: at each, the policy decides anew.
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
