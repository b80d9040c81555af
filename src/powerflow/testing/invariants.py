"""Check the invariants of the scheduler, from the ledger and from the owner of each GPU. Slow; only for tests.

Call `check` after each step of the scheduler.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from powerflow.cluster.packed_pool import ASLEEP, FAILED, UP
from powerflow.cluster.spec import Node
from powerflow.scheduler.plan import Change, Plan, Reason, Why
from powerflow.scheduler.pool import Pool
from powerflow.scheduler.rules.power_limit import exceeded
from powerflow.scheduler.scheduler import Scheduler
from powerflow.testing.pool_invariants import check_pool


def check(scheduler: Scheduler, plan: Plan | None = None) -> None:
    """Check the scheduler's state after a step, and the plan of this step if ``plan`` is given.

    Raises:
        AssertionError: An invariant is broken. The message names the job or the node.
    """
    for pool in scheduler.pools.values():
        check_pool(pool.occupancy.pool)  # no GPU has two owners
        _check_holdings(scheduler, pool)
    _check_jobs(scheduler)
    if plan is not None:
        _check_plan(scheduler, plan)


def _check_jobs(scheduler: Scheduler) -> None:
    """Check that each submitted job is active or has ended.

    Each active job must have one ledger row and be in one pool.
    """
    ledger = scheduler.ledger
    ended = sum(scheduler.ended.values())
    assert scheduler.submitted == len(ledger.slot_of) + ended, (
        f"{scheduler.submitted} jobs submitted, but {len(ledger.slot_of)} active and {ended} ended"
    )
    used = {slot for slot, job in enumerate(ledger.jobs) if job is not None}
    assert used == set(ledger.slot_of.values()), "slots in use are not those of the active jobs"
    for job_id, slot in ledger.slot_of.items():
        assert ledger.job(slot).id == job_id, f"slot {slot} of {job_id} holds {ledger.job(slot).id}"
    places = Counter(slot for pool in scheduler.pools.values() for slot in [*pool.active, *pool.outage.pinned])
    assert places == Counter(used), "an active job is not in exactly one pool"
    for pool in scheduler.pools.values():
        numbers = ledger.rows["id"][pool.active]
        assert (np.diff(numbers) > 0).all(), f"jobs of {pool.gpu_type} are not in order of submission"
        for slot in pool.active:
            job = ledger.job(slot)
            assert job.gpu_type in (None, pool.gpu_type), f"{job.id} needs {job.gpu_type} but is on {pool.gpu_type}"


def _check_holdings(scheduler: Scheduler, pool: Pool) -> None:
    """Check that each job holds exactly the GPUs that the ledger says, and only GPUs that are in service."""
    rows, occupancy = scheduler.ledger.rows, pool.occupancy
    total = 0
    for slot in [*pool.active, *pool.outage.pinned]:
        gpus, name = int(rows["gpus"][slot]), scheduler.ledger.job(slot).id
        held = sum(len(share.gpus) for share in occupancy.placement(slot))
        assert gpus == held, f"{name} is given {gpus} GPUs and holds {held}"
        total += gpus
        if gpus:
            assert gpus in pool.axes.gpu_counts, f"{name} holds {gpus} GPUs, a count that no table knows"
            least, most = rows["gpus_min"][slot], rows["gpus_max"][slot]
            assert least <= gpus <= most, f"{name} holds {gpus} GPUs, its limits are {least} to {most}"
            assert scheduler.ledger.job(slot).runs_on(gpus), f"{name} holds {gpus} GPUs, and may not"
            assert 0 <= rows["clock"][slot] < len(pool.axes.clocks_mhz), f"{name} runs at no clock that exists"
        assert rows["done"][slot] >= 0, f"{name} has done {rows['done'][slot]} iterations"
        assert rows["attained_gpu_s"][slot] >= 0, f"{name} has had {rows['attained_gpu_s'][slot]} GPU-seconds"
    assert occupancy.held == total, f"{occupancy.held} GPUs of {pool.gpu_type} are held, jobs have {total}"
    out = set(occupancy.out_of_service())
    held_gpus = {(s.node, gpu) for slot in pool.active for s in occupancy.placement(slot) for gpu in s.gpus}
    assert not out & held_gpus, f"{sorted(out & held_gpus)} are out of service and jobs hold them"
    for node, status in _statuses(pool):
        owners = set(occupancy.owners_on(node.name).tolist())
        if node.name in pool.outage.nodes:
            assert status == FAILED, f"{node.name} does not answer and jobs may start on it"
            assert owners <= pool.evicted | pool.outage.pinned, f"jobs may stay on {node.name}"
            continue
        assert status != FAILED or not owners, f"{node.name} has failed and jobs are still on it"
        assert status == UP or owners <= pool.evicted | pool.outage.pinned, (
            f"{node.name} is not up and jobs may stay on it"
        )


def _statuses(pool: Pool) -> list[tuple[Node, int]]:
    return list(zip(pool.occupancy.nodes, pool.occupancy.status().tolist(), strict=True))


def _check_plan(scheduler: Scheduler, plan: Plan) -> None:
    assert plan.wake_s > plan.now_s, f"plan of {plan.now_s} s wants to be woken at {plan.wake_s} s"
    if not plan.decided:
        assert not plan.changes, "no decision was made, and yet there are changes"
        return
    nodes = {node.name: status for pool in scheduler.pools.values() for node, status in _statuses(pool)}
    assert all(nodes[name] == ASLEEP for name in plan.asleep), f"of {plan.asleep} to switch off, some are not asleep"
    assert not any(nodes[name] == ASLEEP for name in plan.woken), f"of {plan.woken} to switch on, some are asleep"
    if plan.early:
        _check_early(scheduler, plan)
    else:
        for pool in scheduler.pools.values():
            pinned = sum(pool.occupancy.gpus_of(slot) for slot in pool.outage.pinned)
            held, up = pool.occupancy.held - pinned, pool.occupancy.up - pool.outage.pinned_up(pool.occupancy)
            assert held <= up, f"{held} GPUs of {pool.gpu_type} are handed out, {up} are up"
            assert not pool.evicted, f"slots {pool.evicted} were to leave their nodes and did not"
    _check_power(scheduler, plan)
    named = Counter(change.job_id for change in plan.changes)
    assert all(times == 1 for times in named.values()), "a plan changes one job twice"
    others = [change.reason.why is Why.MOVED_TYPE for change in plan.changes]
    assert others == sorted(others), "a job moves to another type before the other changes are made"
    gives = [change.gpus - change.reason.gpus_before for change in plan.changes[: others.count(False)]]
    assert gives == sorted(gives), "a plan takes GPUs before it gives them up"
    for change in plan.changes:
        _check_change(scheduler, change)
    reasons = plan.reasons()
    said = set(named) if plan.early else scheduler.ledger.slot_of.keys()
    assert reasons.keys() == said, "not every active job has its reason"
    for change in plan.changes:
        assert reasons[change.job_id] == change.reason, f"{change.job_id} has two reasons"
    for job_id, reason in reasons.items():
        _check_reason(scheduler, job_id, reason, is_changed=job_id in named)


def _check_early(scheduler: Scheduler, plan: Plan) -> None:
    """Check that an early start changes no running job, uses only nodes that are up, and keeps every limit in watts."""
    assert plan.changes, "a plan between decisions changes nothing"
    for change in plan.changes:
        assert change.reason.gpus_before == 0 < change.gpus, f"{change.job_id} is changed between decisions"
        nodes = {share.node for share in scheduler.pools[change.pool].occupancy.placement(change.slot)}
        up = {node.name for node, status in _statuses(scheduler.pools[change.pool]) if status == UP}
        assert nodes <= up, f"{change.job_id} is started on {nodes - up}"
    for name in {change.pool for change in plan.changes}:
        view = scheduler.view(scheduler.pools[name], plan.now_s)
        assert not exceeded(view), f"jobs are started on {name}, and a limit in watts is exceeded"


def _check_power(scheduler: Scheduler, plan: Plan) -> None:
    """Check the watts of each scope (the cluster, or the part of it that has a cap) against its power caps.

    A scope may draw more only if nothing can be reduced and the plan says so. Watts are added up GPU by GPU. The draw
    of idle nodes and the corrections from measured power are taken from the scheduler.
    """
    for scope in scheduler.caps.scopes():
        limit_w = scheduler.caps.limit_w(scope, plan.now_s, plan.now_s)
        watts, mine_w = scheduler.caps.idle_w(scope), 0.0
        for pool in scheduler.pools.values():
            table = scheduler.caps.watts(pool)
            for slot in pool.active:
                row, shares = scheduler.ledger.rows[slot], pool.occupancy.placement(slot)
                inside = sum(len(s.gpus) for s in shares if scope.nodes is None or s.node in scope.nodes)
                if inside:
                    gang_w = table[row["cost"], list(pool.axes.gpu_counts).index(row["gpus"]), row["clock"]]
                    above_w = max(0.0, gang_w - row["gpus"] * pool.gpu_idle_w) / row["gpus"] * inside
                    watts += above_w
                    mine_w += 0.0 if row["unmanaged"] else above_w
        if scope.nodes is None:
            assert abs(plan.power_w - watts) <= 1e-6 * max(1.0, watts), f"plan says {plan.power_w} W, it is {watts} W"
        if watts > limit_w + 0.01:
            said = any(f"power cap on {scope.name}:" in notice for notice in plan.notices)
            assert mine_w <= 0.01, f"{scope.name} draws {watts} W of {limit_w} W, and could do without {mine_w} W"
            assert said, f"{scope.name} draws {watts} W of {limit_w} W, and the plan does not say so"


def _check_change(scheduler: Scheduler, change: Change) -> None:
    """Check that a change of a plan agrees with the ledger and with the GPUs that the job holds."""
    ledger, pool, name = scheduler.ledger, scheduler.pools[change.pool], change.job_id
    assert ledger.slot_of.get(name) == change.slot, f"{name} is not in slot {change.slot}"
    assert change.slot in pool.active, f"{name} is not in pool {change.pool}"
    assert change.gpus == ledger.rows["gpus"][change.slot], f"{name}: the plan and the ledger differ in GPUs"
    assert change.moved or change.gpus == change.reason.gpus_before > 0, f"{name} changes its count without a stop"
    if change.gpus == change.reason.gpus_before:
        said = change.reason.why
        other_clock = (Why.RECLOCKED, Why.CAP_RECLOCKED, Why.BUDGET_RECLOCKED, Why.GIVEN_BACK)
        other_gpus = (Why.MOVED, Why.DRAINED, Why.MOVED_TYPE, Why.CUT)
        assert said in (other_gpus if change.moved else other_clock), f"{name} is said to be {said.value!r}"
    if change.gpus == 0:
        assert change.clock_mhz == 0, f"{name} has a clock and no GPU"
        return
    assert change.clock == ledger.rows["clock"][change.slot], f"{name}: the plan and the ledger differ in the clock"
    assert change.clock_mhz == pool.axes.clocks_mhz[change.clock], f"{name}: {change.clock_mhz} MHz is another clock"
    assert change.packed == pool.occupancy.is_packed(change.slot), f"{name}: packed is not as it stands"
    assert change.wake_s >= 0, f"{name} is to start in the past"


def _check_reason(scheduler: Scheduler, job_id: str, reason: Reason, *, is_changed: bool) -> None:
    """Check that a job's reason fits the numbers in it, and that these numbers agree with the ledger."""
    slot = scheduler.ledger.slot_of[job_id]
    assert reason.gpus == scheduler.ledger.rows["gpus"][slot], f"{job_id}: reason and ledger differ in GPUs"
    assert (reason.clock_mhz > 0) == (reason.gpus > 0), f"{job_id}: a clock without GPUs, or GPUs without a clock"
    assert reason.sentence(), f"{job_id} has a reason without words"
    before, after, why = reason.gpus_before, reason.gpus, reason.why
    same_clock = reason.clock_before_mhz == reason.clock_mhz
    holds = {
        Why.STARTED: is_changed and before == 0 < after,
        Why.RESUMED: is_changed and before == 0 < after,
        Why.GROWN: is_changed and 0 < before < after,
        Why.SHRUNK: is_changed and before > after > 0,
        Why.PREEMPTED: is_changed and before > 0 == after,
        Why.RECLOCKED: is_changed and before == after > 0 and not same_clock,
        Why.MOVED: is_changed and before == after > 0,
        Why.DRAINED: is_changed and before > 0 and bool(reason.drained),
        Why.CUT: is_changed and before == after > 0,
        Why.UNREACHABLE: not is_changed and before == after > 0 and same_clock,
        Why.MOVED_TYPE: is_changed and before > 0 and after > 0,
        Why.CAP_RECLOCKED: is_changed and before == after > 0 and reason.clock_mhz < reason.clock_before_mhz,
        Why.CAP_SHRUNK: is_changed and before > after > 0,
        Why.CAP_PAUSED: is_changed and before > 0 == after,
        Why.CAP_KEPT: not is_changed and before == after > 0 and same_clock,
        Why.WAITS_CAP: not is_changed and before == after == 0,
        Why.BUDGET_RECLOCKED: is_changed and before == after > 0 and reason.clock_mhz < reason.clock_before_mhz,
        Why.BUDGET_SHRUNK: is_changed and before > after > 0,
        Why.BUDGET_PAUSED: is_changed and before > 0 == after,
        Why.BUDGET_KEPT: not is_changed and before == after > 0 and same_clock,
        Why.AS_ASKED: not is_changed and before == after > 0 and same_clock,
        Why.GIVEN_BACK: is_changed and before == after > 0 and not same_clock,
        Why.KEPT: not is_changed and before == after > 0 and same_clock,
        Why.KEPT_COST: not is_changed and before == after > 0 and same_clock,
        Why.WAITS_GPUS: not is_changed and before == after == 0,
        Why.WAITS_BUDGET: not is_changed and before == after == 0,
        Why.NEVER_FITS: not is_changed and before == after == 0,
    }
    assert holds[why], f"{job_id} is said to be {why.value!r}, which {reason} does not bear out"
    assert reason.short_of == 0 or why is Why.WAITS_GPUS, f"{job_id} is short of GPUs without waiting for them"
    assert not reason.beneficiary or why in (Why.SHRUNK, Why.PREEMPTED), f"{job_id} gave GPUs to nobody"
