"""The check finds what is broken: each rule, broken by hand."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from powerflow.scheduler.plan import Plan, Reason, Why
from powerflow.scheduler.scheduler import Scheduler
from powerflow.testing.invariants import check
from tests.scheduler.situations import SchedulerDriver, Told, submitted

Break = Callable[[Scheduler, Plan], object]


def _situation() -> tuple[Scheduler, Plan]:
    """Job a on four GPUs, job b on two, job c waits."""
    driver = SchedulerDriver(Told({0: (4, 1), 1: (2, 0)}))
    plan = driver.at(0, submitted("a"), submitted("b"), submitted("c", gpus_min=4))
    return driver.scheduler, plan


def _row(column: str, slot: int, value: float) -> Break:
    def change(scheduler: Scheduler, plan: Plan) -> None:
        scheduler.ledger.rows[column][slot] = value

    return change


def _change(**fields: object) -> Break:
    def change(scheduler: Scheduler, plan: Plan) -> None:
        changes = list(plan.changes)
        changes[-1] = changes[-1]._replace(**fields)  # type: ignore[arg-type]
        plan.changes = changes

    return change


def _reason(job: str, **fields: object) -> Break:
    def change(scheduler: Scheduler, plan: Plan) -> None:
        reasons = dict(plan.reasons())
        reasons[job] = reasons[job]._replace(**fields)  # type: ignore[arg-type]
        plan.changes = [change for change in plan.changes if change.job_id != job]
        plan.reasons = lambda: reasons

    return change


def _forget_reason(scheduler: Scheduler, plan: Plan) -> None:
    reasons: dict[str, Reason] = {name: reason for name, reason in plan.reasons().items() if name != "c"}
    plan.reasons = lambda: reasons


def _a100(scheduler: Scheduler):  # type: ignore[no-untyped-def]
    return scheduler.pools["A100"]


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda s, p: setattr(s, "submitted", 4), "4 jobs submitted, but 3 active and 0 ended"),
        (lambda s, p: s.ended.update(failed=1), "3 active and 1 ended"),
        (lambda s, p: _a100(s).active.append(2), "not in exactly one pool"),
        (lambda s, p: _a100(s).active.reverse(), "not in order of submission"),
        (lambda s, p: s.ledger.slot_of.update(d=9), "jobs submitted, but 4 active"),
        (lambda s, p: s.ledger.slot_of.update(a=1, b=0), "slot 1 of a holds b"),
        (lambda s, p: s.ledger.jobs.__setitem__(9, s.ledger.jobs[0]), "slots in use"),
        (lambda s, p: _a100(s).occupancy.release(1), "b is given 2 GPUs and holds 0"),
        (lambda s, p: _a100(s).occupancy.allocate(40, 1), "7 GPUs of A100 are held, jobs have 6"),
        (lambda s, p: _a100(s).occupancy.fail("a100-0"), "a100-0 has failed and jobs are still on it"),
        (lambda s, p: _a100(s).occupancy.drain("a100-0"), "a100-0 is not up and jobs may stay on it"),
        (_row("gpus", 0, 2), "a is given 2 GPUs and holds 4"),
        (_row("gpus_max", 0, 2), "its limits are 1 to 2"),
        (_row("clock", 0, 7), "at no clock"),
        (_row("done", 0, -1), "a has done -1"),
        (_row("attained_gpu_s", 0, -1), "a has had -1"),
        (lambda s, p: setattr(p, "wake_s", 0.0), "wants to be woken"),
        (lambda s, p: setattr(p, "decided", False), "no decision was made"),
        (lambda s, p: setattr(p, "asleep", ["a100-0"]), "not asleep"),
        (lambda s, p: setattr(p, "changes", [*p.changes, p.changes[0]]), "changes one job twice"),
        (lambda s, p: setattr(p, "changes", p.changes[::-1]), "takes GPUs before it gives them up"),
        (_change(gpus=2), "a: the plan and the ledger differ in GPUs|takes GPUs before"),
        (_change(slot=1), "a is not in slot 1"),
        (_change(clock=0), "differ in the clock"),
        (_change(clock_mhz=700.0), "is another clock"),
        (_change(packed=False), "packed is not as it stands"),
        (_change(moved=False), "changes its count without a stop"),
        (_change(wake_s=-1.0), "start in the past"),
        (_forget_reason, "not every active job has its reason"),
        (_reason("c", why=Why.KEPT), "which .* does not bear out"),
        (_reason("c", gpus=1), "reason and ledger differ"),
        (_reason("c", why=Why.WAITS_BUDGET, short_of=1), "short of GPUs without waiting"),
        (_reason("a", why=Why.KEPT, gpus_before=4, clock_before_mhz=1400.0, beneficiary="b"), "gave GPUs to nobody"),
        (_reason("a", clock_mhz=0.0), "GPUs without a clock"),
    ],
)
def test_each_rule_is_checked(break_it: Break, words: str) -> None:
    scheduler, plan = _situation()
    break_it(scheduler, plan)
    with pytest.raises(AssertionError, match=words):
        check(scheduler, plan)


def test_a_sound_state_passes() -> None:
    scheduler, plan = _situation()
    check(scheduler)
    check(scheduler, plan)
